"""OpenAI's models operations: what is sold here, at which price."""

from typing import Any

from fastapi import APIRouter

from billing.money import format_usd
from gateway.catalog import MODELS, Model, find_model
from gateway.dependencies import CallerOf
from gateway.dialects.openai_shape import OpenAIRoute

router = APIRouter(route_class=OpenAIRoute, tags=["models"])


@router.get("/v1/models")
async def list_models(caller: CallerOf) -> dict[str, Any]:
    """Every model that this key may use."""
    allowed = caller.allowed_models
    return {"object": "list", "data": [_shown(model) for model in MODELS if allowed is None or model.id in allowed]}


@router.get("/v1/models/{name:path}")
async def retrieve_model(name: str, _caller: CallerOf) -> dict[str, Any]:
    """One model by id or alias; its slash may be sent raw or as %2F."""
    return _shown(find_model(name))


def _shown(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "meta",
        "name": model.name,
        "description": model.description,
        "aliases": list(model.aliases),
        "pricing": {
            "unit": "image",
            "price_micros": model.unit_price_micros,
            "price_usd": format_usd(model.unit_price_micros),
        },
        "returns_pictures": model.returns_pictures,
    }
