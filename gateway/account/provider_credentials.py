"""A customer's own provider keys over the API. The key goes in and never comes out again."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from gateway.auth import Caller
from gateway.catalog import find_model
from gateway.dependencies import CallerOf, ResourcesOf
from gateway.dialects.openai_shape import OpenAIRoute
from gateway.identifiers import CREDENTIAL, KEY, parse_id, public_id
from gateway.tenants.api_keys import Scope
from gateway.tenants.errors import CredentialNotFound, SettingRejected
from gateway.tenants.provider_credentials import (
    POSITION_DEFAULT,
    NewCredential,
    attach,
    change,
    checked_credential,
    detach,
    get_credential,
    list_credentials,
)
from gateway.tenants.tables import ProviderCredential

router = APIRouter(route_class=OpenAIRoute, tags=["provider credentials"])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Attach(_Body):
    """A key to attach. `models` and `api_keys` pin it; left out, it serves all of them."""

    provider: str
    key: SecretStr
    name: str = ""
    base_url: str | None = None
    models: list[str] | None = None
    api_keys: list[str] | None = None
    position: int = POSITION_DEFAULT
    may_fall_back: bool = Field(False, description="Calls that its provider does not start may use paid credits.")


class Change(_Body):
    """What to change; what is left out stays, and null lifts a pin."""

    name: str = ""
    models: list[str] | None = None
    api_keys: list[str] | None = None
    position: int = POSITION_DEFAULT
    may_fall_back: bool = False
    enabled: bool = True


async def _holder(caller: CallerOf) -> Caller:
    """A caller whose key may look after provider credentials."""
    caller.require_scope(Scope.CREDENTIALS)
    return caller


Holder = Annotated[Caller, Depends(_holder)]


@router.post("/v1/provider-credentials", status_code=201)
async def create(body: Attach, resources: ResourcesOf, caller: Holder) -> dict[str, Any]:
    """Check the key with its provider, then store it sealed. From then on calls it applies to cost nothing here."""
    keys = resources.customer_keys
    new = checked_credential(
        NewCredential(
            provider=body.provider,
            secret=body.key.get_secret_value(),
            name=body.name,
            base_url=body.base_url,
            models=_canonical(body.models),
            api_keys=_key_ids(body.api_keys),
            position=body.position,
            may_fall_back=body.may_fall_back,
        ),
        http_allowed=bool(resources.settings.picture_url_networks),
    )
    await keys.check(new)
    async with resources.database.writing() as session:
        record = await attach(session, caller.organization_id, keys.vault, new)
    keys.forget(caller.organization_id)
    return shown(record)


@router.get("/v1/provider-credentials")
async def list_all(resources: ResourcesOf, caller: Holder) -> dict[str, Any]:
    """Every key of the organization, in the order in which they are used."""
    async with resources.database.reading() as session:
        found = await list_credentials(session, caller.organization_id)
    return {"object": "list", "data": [shown(record) for record in found]}


@router.get("/v1/provider-credentials/{credential_id}")
async def retrieve(credential_id: str, resources: ResourcesOf, caller: Holder) -> dict[str, Any]:
    """One of them."""
    async with resources.database.reading() as session:
        return shown(await get_credential(session, caller.organization_id, _id(credential_id)))


@router.patch("/v1/provider-credentials/{credential_id}")
async def update(credential_id: str, body: Change, resources: ResourcesOf, caller: Holder) -> dict[str, Any]:
    """Change pins, order, fall-back, or switch it on or off."""
    changes: dict[str, object] = body.model_dump(exclude_unset=True)
    if "models" in changes:
        changes["models"] = _canonical(body.models)
    if "api_keys" in changes:
        changes["api_keys"] = _key_ids(body.api_keys)
    async with resources.database.writing() as session:
        record = await change(session, caller.organization_id, _id(credential_id), changes)
    resources.customer_keys.forget(caller.organization_id)
    return shown(record)


@router.delete("/v1/provider-credentials/{credential_id}", status_code=204)
async def delete(credential_id: str, resources: ResourcesOf, caller: Holder) -> Response:
    """Delete the key; the wallet pays again."""
    async with resources.database.writing() as session:
        await detach(session, caller.organization_id, _id(credential_id))
    resources.customer_keys.forget(caller.organization_id)
    return Response(status_code=204)


def shown(record: ProviderCredential) -> dict[str, Any]:
    """A credential as people see it: of the key the last four characters and a fingerprint."""
    return {
        "id": public_id(CREDENTIAL, record.id),
        "object": "provider_credential",
        "provider": record.provider,
        "name": record.name,
        "base_url": record.base_url,
        "last4": record.last4,
        "fingerprint": record.fingerprint,
        "models": record.models,
        "api_keys": None if record.api_keys is None else [public_id(KEY, key) for key in record.api_keys],
        "position": record.position,
        "may_fall_back": record.may_fall_back,
        "enabled": record.enabled,
        "disabled_reason": record.disabled_reason,
        "refusals_in_a_row": record.refusals,
        "last_error": record.last_error,
        "last_error_at": record.last_error_at,
        "created_at": record.created_at,
    }


def _id(text: str) -> UUID:
    found = parse_id(CREDENTIAL, text)
    if found is None:
        raise CredentialNotFound
    return found


def _canonical(names: list[str] | None) -> list[str] | None:
    """Models by their own names, aliases resolved. Raises ModelUnknown."""
    return None if names is None else [find_model(name).id for name in names]


def _key_ids(texts: list[str] | None) -> list[UUID] | None:
    if texts is None:
        return None
    found = [parse_id(KEY, text) for text in texts]
    if None in found:
        raise SettingRejected("API keys are named by their ids, key_….", "api_keys")
    return [key for key in found if key is not None]
