"""gateway models"""

from billing.money import format_usd_short
from gateway.catalog import MODELS
from gateway.cli.output import AsJson, print_json, print_table


def command(as_json: AsJson = False) -> None:
    """Show what is sold, and for how much."""

    if as_json:
        print_json(
            [
                {
                    "id": model.id,
                    "name": model.name,
                    "description": model.description,
                    "unit_price_micros": model.unit_price_micros,
                    "returns_pictures": model.returns_pictures,
                    "aliases": list(model.aliases),
                }
                for model in MODELS
            ]
        )
        return
    print_table(
        ("model", "price per picture", "answers with", "also known as"),
        [
            (
                model.id,
                format_usd_short(model.unit_price_micros),
                "pictures" if model.returns_pictures else "run lengths",
                ", ".join(model.aliases),
            )
            for model in MODELS
        ],
    )
