"""What routes ask for by type: the process's resources and the caller behind the request."""

from typing import Annotated

from fastapi import Depends, Request

from gateway.auth import Caller, Operator
from gateway.dialect import merge_headers
from gateway.rate_limit import Bucket, rate_limit_headers
from gateway.resources import Resources
from gateway.tenants.errors import RateLimited


async def resources_of(request: Request) -> Resources:
    """What the process has opened."""
    resources: Resources = request.app.state.resources
    return resources


ResourcesOf = Annotated[Resources, Depends(resources_of)]


async def caller_of(request: Request, resources: ResourcesOf) -> Caller:
    """Whoever the key belongs to; costs nothing of the limit. Raises 401's refusals, or 503's without a database."""
    return await resources.authenticator.authenticate(request.headers.get("authorization"))


CallerOf = Annotated[Caller, Depends(caller_of)]


async def metered_caller_of(request: Request, resources: Resources, caller: Caller) -> Caller:
    """The caller, after taking one request from the limits of the key and of the organization.

    Comes before the body is read, so that refusing a flood stays cheap. The answer says what is left.
    """
    settings = resources.settings
    state = await resources.limiter.take(
        [
            Bucket(
                kind="organization",
                id=caller.organization_id,
                group=caller.organization_id,
                requests_per_minute=caller.organization_requests_per_minute
                or settings.organization_requests_per_minute,
            ),
            Bucket(
                kind="key",
                id=caller.lineage_id,
                group=caller.organization_id,
                requests_per_minute=caller.requests_per_minute or settings.requests_per_minute,
            ),
        ]
    )
    merge_headers(request, rate_limit_headers(state))
    if not state.allowed:
        raise RateLimited(state)
    return caller


async def _operator(request: Request, resources: ResourcesOf) -> Operator:
    """Whoever holds the admin key; a customer's key never passes for one."""
    return await resources.authenticator.authenticate_admin(request.headers.get("authorization"))


OperatorOf = Annotated[Operator, Depends(_operator)]
