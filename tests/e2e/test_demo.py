"""The real thing as a newcomer meets it: one command, the shipped small model, the pictures that come with it."""

import base64
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from PIL import Image

from inference.pool.tiny import drawing, pictures
from tests.gateway.cli.conftest import Machine, remaining

pytestmark = pytest.mark.timeout(600)

MODEL = "meta/sam-3-image"
PRICE_MICROS = 5_000
SIZE = (pictures.WIDTH, pictures.HEIGHT)
NAMES = sorted(pictures.demo_scenes())
SHAPES = pictures.FOLDER / "shapes.png"
TEXT_IOU_MIN = 0.75
OBJECT_IOU_MIN = 0.8

Bitmap = NDArray[np.bool_]


def newcomer_s(data_dir: Path) -> Machine:
    """A machine on which nothing is configured but where the data goes; one thread, so that answers never differ."""
    return Machine(data_dir, "", settings={"GATEWAY_POOL_TORCH_THREADS": "1", "GATEWAY_POOL_DEVICE": "cpu"})


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, str]]:
    """The demo, running, and what it printed."""
    machine = newcomer_s(tmp_path_factory.mktemp("newcomer") / "data")
    try:
        yield machine, machine.start()
    finally:
        if machine.process is not None:
            machine.signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def machine(started: tuple[Machine, str]) -> Machine:
    return started[0]


@pytest.fixture(scope="module")
def client(machine: Machine) -> Iterator[openai.OpenAI]:
    """The stock client: only the base URL and the key are ours."""
    demo = machine.demo
    with openai.OpenAI(base_url=f"{demo['base_url']}/v1", api_key=demo["api_key"], max_retries=0) as client:
        yield client


def truth(name: str) -> list[tuple[str, Bitmap]]:
    """What is in a shipped picture: each object's words and the pixels of it that can be seen."""
    scene = pictures.demo_scenes()[name]
    _, coverages = drawing.render(scene, *SIZE)
    return [(f"{item.colour} {item.shape}", mask) for item, mask in zip(scene.objects, coverages > 0.5, strict=True)]


def one(name: str, words: str) -> Bitmap:
    """The pixels of the only object that the words describe."""
    [found] = [mask for described, mask in truth(name) if described == words]
    return found


def iou(first: Bitmap, second: Bitmap) -> float:
    return float((first & second).sum() / max(int((first | second).sum()), 1))


def opened(encoded: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(encoded))
    picture.load()
    return picture


def bitmap(encoded: bytes) -> Bitmap:
    """A mask as the product returns it: grey, as large as the picture."""
    picture = opened(encoded)
    assert (picture.mode, picture.size) == ("L", SIZE)
    return np.asarray(picture) > 127


def png(mask: NDArray[Any], mode: str = "L") -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask, mode).save(out, "PNG")
    return out.getvalue()


def data_uri(encoded: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(encoded).decode()}"


def generate(client: openai.OpenAI, name: str = "shapes.png", **fields: Any) -> Any:
    """A shipped picture as JSON, answered in base64."""
    given = {"prompt": "", "model": MODEL} | {key: fields.pop(key) for key in ("prompt", "model") if key in fields}
    image = {"image": data_uri((pictures.FOLDER / name).read_bytes())}
    return client.images.generate(**given, response_format="b64_json", extra_body=image | fields)


def edit(client: openai.OpenAI, name: str = "shapes.png", **fields: Any) -> Any:
    """A shipped picture as an upload, answered in base64."""
    given = {"prompt": "", "model": MODEL} | {key: fields.pop(key) for key in ("prompt", "mask") if key in fields}
    with (pictures.FOLDER / name).open("rb") as file:
        return client.images.edit(image=file, **given, response_format="b64_json", extra_body=fields)


def masks(answer: Any) -> list[Bitmap]:
    return [bitmap(base64.b64decode(datum.b64_json)) for datum in answer.data]


def wallet_micros(machine: Machine) -> int:
    """What the demo organization owns; nothing of it may be held."""
    shown = machine.run("wallet", "show", "--organization", machine.demo["organization_id"], "--json").document
    assert shown["held_micros"] == 0
    balance: int = shown["balance_micros"]
    return balance


def paragraph(printed: str, beginning: str) -> str:
    """The lines from the one that begins so to the next empty one."""
    return beginning + printed.split(f"\n{beginning}", 1)[1].split("\n\n", 1)[0]


# --- what is printed


def test_the_printed_python_lines_find_the_red_circle(started: tuple[Machine, str]) -> None:
    machine, printed = started
    snippet = paragraph(printed, "from openai")
    assert len(snippet.splitlines()) == 6
    before = wallet_micros(machine)
    ran = subprocess.run(
        [sys.executable, "-c", snippet], check=True, capture_output=True, text=True, cwd=machine.data_dir
    )
    [link] = re.findall(r"https?://\S+", ran.stdout)
    assert iou(bitmap(httpx.get(link).content), one("shapes.png", "red circle")) >= TEXT_IOU_MIN
    assert before - wallet_micros(machine) == PRICE_MICROS


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_the_printed_curl_line_cuts_the_red_circle_out(started: tuple[Machine, str]) -> None:
    _, printed = started
    ran = subprocess.run(["bash", "-c", paragraph(printed, "curl")], check=True, capture_output=True, text=True)
    answer = json.loads(ran.stdout)
    cut = opened(httpx.get(answer["data"][0]["url"]).content)
    assert (cut.mode, cut.size) == ("RGBA", SIZE)
    assert iou(np.asarray(cut)[..., 3] > 127, one("shapes.png", "red circle")) >= TEXT_IOU_MIN
    assert answer["usage"]["cost_usd"] == "0.005000"


def test_demo_json_holds_what_scripts_need(machine: Machine, client: openai.OpenAI) -> None:
    demo = machine.demo
    assert set(demo) == {"base_url", "api_key", "admin_key", "organization_id"}
    assert [model.id for model in client.models.list()] == [MODEL, "meta/sam-3-image-rle", "meta/sam-3-1-image"]
    assert client.models.retrieve(MODEL).id == MODEL


def test_gateway_segment_writes_the_mask_and_says_what_it_cost(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "mask.png"
    before = wallet_micros(machine)
    ended = machine.run("segment", str(SHAPES), "--prompt", "red circle", "--out", str(out))
    assert ended.status == 0, ended.err
    assert "cost $0.005000" in ended.out
    assert iou(bitmap(out.read_bytes()), one("shapes.png", "red circle")) >= TEXT_IOU_MIN
    assert before - wallet_micros(machine) == PRICE_MICROS


# --- what is found


@pytest.mark.parametrize("name", NAMES)
def test_words_find_every_object_that_they_describe(client: openai.OpenAI, name: str) -> None:
    found = {}
    for words in sorted({words for words, _ in truth(name)}):
        real = [mask for described, mask in truth(name) if described == words]
        answer = masks(generate(client, name, prompt=words, return_multiple_masks=True))
        nothing = np.zeros_like(real[0])
        found[words] = round(iou(np.any([nothing, *answer], axis=0), np.any(real, axis=0)), 3)
    print(name, found)
    assert {words: value for words, value in found.items() if value < TEXT_IOU_MIN} == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_click_on_any_object_finds_it(client: openai.OpenAI, name: str) -> None:
    found = {}
    for number, (words, real) in enumerate(truth(name)):
        ys, xs = np.nonzero(real)
        nearest = int(np.argmin((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2))
        point = {"x": float(xs[nearest]), "y": float(ys[nearest])}
        answer = masks(edit(client, name, point_prompts=[point]))
        found[f"{number} {words}"] = round(iou(answer[0], real), 3) if answer else 0.0
    print(name, found)
    assert {words: value for words, value in found.items() if value < OBJECT_IOU_MIN} == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_box_around_any_object_finds_it(client: openai.OpenAI, name: str) -> None:
    found = {}
    for number, (words, real) in enumerate(truth(name)):
        ys, xs = np.nonzero(real)
        sides = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        box = dict(zip(("x_min", "y_min", "x_max", "y_max"), map(float, sides), strict=True))
        answer = masks(generate(client, name, box_prompts=[box]))
        found[f"{number} {words}"] = round(iou(answer[0], real), 3) if answer else 0.0
    print(name, found)
    assert {words: value for words, value in found.items() if value < OBJECT_IOU_MIN} == {}


def test_a_rough_mask_of_ours_or_of_openai_s_kind_finds_its_object(client: openai.OpenAI) -> None:
    real = one("shapes.png", "blue square")
    grey = np.where(real, 255, 0).astype(np.uint8)
    see_through = np.dstack([np.zeros((*real.shape, 3), np.uint8), 255 - grey])
    [by_ours] = masks(generate(client, mask_prompt=data_uri(png(grey))))
    [by_theirs] = masks(edit(client, mask=png(see_through, "RGBA")))
    assert iou(by_ours, real) >= TEXT_IOU_MIN
    assert iou(by_theirs, real) >= TEXT_IOU_MIN


def test_what_is_not_there_is_not_found(client: openai.OpenAI) -> None:
    for words in ("dog", "black cross"):
        answer = generate(client, prompt=words, return_multiple_masks=True)
        assert answer.data == [], words
        assert answer.usage.cost_micros == PRICE_MICROS


@pytest.mark.parametrize("model", [MODEL, "meta/sam-3-image-rle", "meta/sam-3-1-image", "fal-ai/sam-3/image-rle"])
def test_scores_boxes_and_run_lengths_describe_the_object(client: openai.OpenAI, model: str) -> None:
    [datum] = generate(client, model=model, prompt="red circle").data
    real = one("shapes.png", "red circle")
    pixels = np.zeros(real.size, dtype=bool)
    pairs = np.array(datum.rle.split(), dtype=int).reshape(-1, 2)
    for start, length in pairs:
        pixels[start - 1 : start - 1 + length] = True
    found = pixels.reshape(real.shape)
    assert iou(found, real) >= TEXT_IOU_MIN
    ys, xs = np.nonzero(found)
    assert datum.box == {"x_min": xs.min(), "y_min": ys.min(), "x_max": xs.max() + 1, "y_max": ys.max() + 1}
    assert 0.5 <= datum.score <= 1
    assert (datum.b64_json is None) == model.endswith("rle")


# --- how it comes back


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("style", ["mask", "cutout", "overlay"])
def test_every_style_comes_in_every_format(client: openai.OpenAI, style: str, output_format: str) -> None:
    answer = generate(client, prompt="red circle", mask_style=style, output_format=output_format)
    picture = opened(base64.b64decode(answer.data[0].b64_json))
    assert (str(picture.format).lower(), picture.size) == (output_format, SIZE)
    pixels = np.asarray(picture.convert("RGBA")).astype(int)
    ys, xs = np.nonzero(one("shapes.png", "red circle"))
    inside, outside = pixels[int(ys.mean()), int(xs.mean())], pixels[20, 20]  # the middle of the circle; the page
    match style:
        case "mask":
            assert inside[0] > 250
            assert outside[0] < 5
        case "cutout":
            assert inside[0] > 150
            assert inside[2] < 80
            assert outside[3] == 0 if output_format != "jpeg" else outside[:3].min() > 250
        case "overlay":
            assert outside[:3].min() > 200
            assert abs(inside[:3] - outside[:3]).max() > 60


def test_results_are_fitted_into_the_size_asked_for(client: openai.OpenAI) -> None:
    answer = generate(client, prompt="red circle", size="480x480")
    picture = opened(base64.b64decode(answer.data[0].b64_json))
    assert picture.size == (480, 320)
    small = np.asarray(Image.fromarray(one("shapes.png", "red circle")).resize((480, 320)))
    assert iou(np.asarray(picture) > 127, small) >= TEXT_IOU_MIN


# --- what it costs, and what is refused


def test_the_wallet_is_lighter_by_exactly_what_was_used(machine: Machine, client: openai.OpenAI) -> None:
    before = wallet_micros(machine)
    generate(client, prompt="red circle", max_masks=5)
    two = [path.open("rb") for path in (SHAPES, pictures.FOLDER / "dusk.png")]
    answer: Any = client.images.edit(model=MODEL, image=list(two), prompt="yellow star", n=8)
    for file in two:
        file.close()
    assert {datum.image_index for datum in answer.data} == {0, 1}
    generate(client, model="meta/sam-3-1-image", prompt="red circle")
    with pytest.raises(openai.BadRequestError):
        generate(client)
    assert before - wallet_micros(machine) == 1 * PRICE_MICROS + 2 * PRICE_MICROS + 10_000


def test_a_picture_that_is_cut_short_is_refused_and_costs_nothing(machine: Machine, client: openai.OpenAI) -> None:
    whole = SHAPES.read_bytes()
    before = wallet_micros(machine)
    for part in (whole[: len(whole) // 2], whole[:-200], whole[:40]):
        with pytest.raises(openai.BadRequestError) as raised:
            client.images.edit(model=MODEL, image=part, prompt="red circle")
        assert (raised.value.type, raised.value.param) == ("invalid_request_error", "image")
        assert raised.value.request_id
    assert wallet_micros(machine) == before


# --- how it ends


def test_a_second_one_on_the_same_folder_says_so_and_changes_nothing(machine: Machine, client: openai.OpenAI) -> None:
    second = machine.run("serve", "--demo")
    assert second.status != 0
    assert machine.demo["base_url"] in second.err
    assert len(second.err.splitlines()) == 1
    assert masks(generate(client, prompt="red circle"))


def test_ctrl_c_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    machine = newcomer_s(tmp_path / "data")
    try:
        machine.start()
        demo, family = machine.demo, machine.family()
        assert any("inference.pool" in (process.as_dict(["cmdline"])["cmdline"] or ()) for process in family)
        assert machine.signal(signal.SIGINT) == 0
        assert remaining(family) == []
    finally:
        if machine.process is not None:
            machine.signal(signal.SIGKILL)
    host, _, port = demo["base_url"].removeprefix("http://").partition(":")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=5)
    assert [path for path in machine.data_dir.rglob("*") if path.is_socket()] == []
    assert not (machine.data_dir / "run").exists()
