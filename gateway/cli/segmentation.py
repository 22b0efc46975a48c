"""gateway segment PICTURE"""

import base64
import mimetypes
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.customer import ApiKey, BaseUrl, ask, connection
from gateway.cli.errors import CliError
from gateway.cli.output import AsJson, print_json, print_table

MASK_FACTS = ("score", "box", "object_id")  # what is short enough to be read; the rest is in the files


class Style(StrEnum):
    """What a result picture shows."""

    MASK = "mask"
    CUTOUT = "cutout"
    OVERLAY = "overlay"


def command(
    picture: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="PNG, JPEG, WebP …")],
    prompt: Annotated[str | None, typer.Option(help="What to look for, in words.")] = None,
    point: Annotated[list[str] | None, typer.Option(metavar="X,Y", help="A click on it; X,Y,0: not this.")] = None,
    box: Annotated[list[str] | None, typer.Option(metavar="X0,Y0,X1,Y1", help="A box around it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the mask goes; further ones get numbers.")] = None,
    style: Annotated[Style, typer.Option(help="What the result shows.")] = Style.MASK,
    max_masks: Annotated[int, typer.Option(min=1, max=32, help="How many objects at most.")] = 1,
    model: Annotated[str, typer.Option(help="See 'gateway models'.")] = "meta/sam-3-image",
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Segment a picture through the gateway; prints the cost and the balance."""
    if not prompt and not point and not box:
        raise CliError("Say what to look for: --prompt, --point or --box.", exit_status=2)
    body = {
        "model": model,
        "image": _data_uri(picture),
        "prompt": prompt,
        "point_prompts": [_point(text) for text in point or ()] or None,
        "box_prompts": [_box(text) for text in box or ()] or None,
        "mask_style": style.value,
        "max_masks": max_masks,
        "response_format": "b64_json",
        "output_format": _format(out),
    }
    sent = {name: value for name, value in body.items() if value is not None}
    answer = ask(connection(base_url, api_key), "POST", "/v1/images/edits", json=sent)
    found = answer.json()["data"]
    files = _save(found, out)
    cost, balance = answer.headers.get("x-cost-usd"), answer.headers.get("x-balance-usd")
    if as_json:
        masks = [{name: datum[name] for name in MASK_FACTS if name in datum} for datum in found]
        print_json({"masks": masks, "files": [str(file) for file in files], "cost_usd": cost, "balance_usd": balance})
        return
    if found:
        print_table(
            ("mask", "score", "box", "file"),
            [
                (number + 1, datum.get("score"), _corners(datum), _at(files, number))
                for number, datum in enumerate(found)
            ],
        )
    else:
        typer.echo("Nothing was found.")
    typer.echo(f"cost ${cost}, balance ${balance}")


def _data_uri(picture: Path) -> str:
    kind = mimetypes.guess_type(picture.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _format(out: Path | None) -> str:
    suffix = out.suffix.lower().removeprefix(".") if out is not None else "png"
    known = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
    if suffix not in known:
        raise CliError("--out must end in .png, .jpg or .webp.", exit_status=2)
    return known[suffix]


def _numbers(text: str, option: str, counts: tuple[int, ...]) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        raise CliError(f"{option} takes {counts[0]} numbers with commas between them, not '{text}'.", exit_status=2)
    return numbers


def _point(text: str) -> dict[str, float]:
    x, y, *label = _numbers(text, "--point", (2, 3))
    return {"x": x, "y": y, "label": int(label[0]) if label else 1}


def _box(text: str) -> dict[str, float]:
    x_min, y_min, x_max, y_max = _numbers(text, "--box", (4,))
    return {"x_min": x_min, "y_min": y_min, "x_max": x_max, "y_max": y_max}


def _save(found: list[dict[str, Any]], out: Path | None) -> list[Path]:
    """Write every result picture: the first to `out`, the others beside it with their numbers."""
    pictures = [base64.b64decode(datum["b64_json"]) for datum in found if "b64_json" in datum]
    if out is None:
        return []
    files = [out, *(out.with_stem(f"{out.stem}-{number}") for number in range(2, len(pictures) + 1))][: len(pictures)]
    try:
        for file, data in zip(files, pictures, strict=True):
            file.write_bytes(data)
    except OSError as error:
        raise CliError(f"Cannot write {error.filename}: {error.strerror}.") from error
    return files


def _corners(datum: dict[str, Any]) -> str | None:
    box = datum.get("box")
    return None if box is None else ", ".join(f"{box[name]:.0f}" for name in ("x_min", "y_min", "x_max", "y_max"))


def _at(files: list[Path], number: int) -> Path | None:
    return files[number] if number < len(files) else None
