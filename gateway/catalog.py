"""What is sold: models, their prices and the names they are known by elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from billing.money import Micros
from gateway.refusals import ModelUnknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of the price list; `unit_price_micros` is for one input picture."""

    id: str
    name: str
    description: str
    unit_price_micros: Micros
    returns_pictures: bool
    aliases: tuple[str, ...] = ()
    created: int = 1_763_510_400  # 19 November 2025, the release of SAM 3


MODELS: tuple[Model, ...] = (
    Model(
        id="meta/sam-3-image",
        name="SAM 3",
        description="Finds what words, clicks, boxes or a mask point at; answers with masks, cut-outs or overlays.",
        unit_price_micros=Micros(5_000),
        returns_pictures=True,
        aliases=("fal-ai/sam-3/image", "wavespeed-ai/sam3-image"),
    ),
    Model(
        id="meta/sam-3-image-rle",
        name="SAM 3, run lengths",
        description="As SAM 3, but masks come back as run lengths only: small answers for programs.",
        unit_price_micros=Micros(5_000),
        returns_pictures=False,
        aliases=("fal-ai/sam-3/image-rle", "wavespeed-ai/sam3-image-rle"),
    ),
    Model(
        id="meta/sam-3-1-image",
        name="SAM 3.1",
        description="As SAM 3, with the weights of SAM 3.1.",
        unit_price_micros=Micros(10_000),
        returns_pictures=True,
        aliases=("fal-ai/sam-3-1/image",),
        created=1_774_569_600,  # 27 March 2026
    ),
)

_BY_NAME: Mapping[str, Model] = MappingProxyType({name: m for m in MODELS for name in (m.id, *m.aliases)})


def find_model(name: str) -> Model:
    """The model of this id or alias. Raises ModelUnknown naming those that exist."""
    try:
        return _BY_NAME[name]
    except KeyError:
        known = ", ".join(model.id for model in MODELS)
        raise ModelUnknown(f"The model '{name[:100]}' does not exist. Models: {known}.", param="model") from None
