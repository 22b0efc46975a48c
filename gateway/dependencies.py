"""What routes ask for by type: the process's resources and the caller behind the request."""

from typing import Annotated

from fastapi import Depends, Request

from gateway.auth import Caller, Operator
from gateway.dialect import merge_headers
from gateway.rate_limit import Bucket, rate_limit_headers
from gateway.resources import Resources
from gateway.tenants.errors import RateLimited


def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


ResourcesOf = Annotated[Resources, Depends(_resources)]


async def _caller(request: Request, resources: ResourcesOf) -> Caller:
    """Whoever the key belongs to; costs nothing of the limit. Raises 401's refusals, or 503's without a database."""
    return await resources.authenticator.authenticate(request.headers.get("authorization"))


CallerOf = Annotated[Caller, Depends(_caller)]


async def _metered_caller(request: Request, resources: ResourcesOf, caller: CallerOf) -> Caller:
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


MeteredCaller = Annotated[Caller, Depends(_metered_caller)]


async def _operator(request: Request, resources: ResourcesOf) -> Operator:
    """Whoever holds the admin key; a customer's key never passes for one."""
    return await resources.authenticator.authenticate_admin(request.headers.get("authorization"))


OperatorOf = Annotated[Operator, Depends(_operator)]
