"""Frames between gateway and pool: what goes in comes out, and nothing else is accepted."""

import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import wire
from inference.errors import (
    InferenceError,
    InputRejected,
    ModelUnavailable,
    ProviderFailed,
    ProviderSaturated,
    ProviderTimedOut,
)
from inference.frames import WireError
from inference.task import (
    BoxPrompt,
    Mask,
    MaskSelects,
    MaskStyle,
    Picture,
    PictureFormat,
    PointPrompt,
    Prompt,
    Rendering,
    SegmentResult,
    SegmentTask,
)

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
ids = st.none() | st.integers(-5, 5)
pictures = st.builds(
    Picture,
    data=st.binary(max_size=50),
    media_type=st.sampled_from(["image/png", "image/jpeg"]),
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
)
points = st.builds(PointPrompt, x=numbers, y=numbers, positive=st.booleans(), object_id=ids)
boxes = st.builds(
    BoxPrompt, x_min=numbers, y_min=numbers, x_max=numbers, y_max=numbers, positive=st.booleans(), object_id=ids
)
tasks = st.builds(
    SegmentTask,
    model=st.text(max_size=20),
    picture=pictures,
    prompt=st.builds(
        Prompt,
        text=st.none() | st.text(max_size=30),
        points=st.lists(points, max_size=3).map(tuple),
        boxes=st.lists(boxes, max_size=3).map(tuple),
        mask=st.none() | pictures,
        mask_selects=st.sampled_from(MaskSelects),
    ),
    max_masks=st.integers(-1, 99),
    threshold=numbers,
    rendering=st.builds(
        Rendering,
        style=st.sampled_from(MaskStyle),
        format=st.sampled_from(PictureFormat),
        max_pictures=st.integers(0, 32),
        fit_within=st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    ),
    organization=st.text(max_size=20),
)
results = st.builds(
    SegmentResult,
    masks=st.lists(
        st.builds(
            Mask,
            rle=st.none() | st.sampled_from(["", "1 5 9 3"]),
            score=st.none() | numbers,
            box=st.none() | st.tuples(numbers, numbers, numbers, numbers),
            object_id=ids,
            picture=st.none() | st.binary(max_size=40),
        ),
        max_size=4,
    ).map(tuple),
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    timings_ms=st.dictionaries(st.sampled_from(["queue", "decode"]), st.integers(0, 99).map(float)),
)


@given(tasks)
def test_a_task_survives_the_wire(task: SegmentTask) -> None:
    assert wire.decode_task(wire.encode_task(task)) == task


@given(results)
def test_a_result_survives_the_wire(result: SegmentResult) -> None:
    assert wire.decode_result(wire.encode_result(result)) == result


@pytest.mark.parametrize(
    "error",
    [
        InputRejected("The box is inverted.", field="boxes"),
        InputRejected("No."),
        ModelUnavailable("Not here."),
        ModelUnavailable("Later.", retry_after_seconds=3.5),
        ProviderSaturated("Full.", retry_after_seconds=0.25),
        ProviderTimedOut("Late."),
        ProviderFailed("Broken."),
    ],
)
def test_an_error_survives_the_wire(error: InferenceError) -> None:
    received = wire.decode_error(wire.encode_error(error))
    assert type(received) is type(error)
    assert vars(received) == vars(error)


def task_frame(**changes: object) -> bytes:
    """A valid task frame whose header members were replaced."""
    task = SegmentTask(
        model="m", picture=Picture(data=b"abc", media_type="image/png", width=2, height=3), prompt=Prompt(text="t")
    )
    frame = wire.encode_task(task)
    (length,) = struct.unpack_from("!I", frame, 6)
    header = json.loads(frame[10 : 10 + length]) | changes
    encoded = json.dumps({name: value for name, value in header.items() if value != "DROP"}).encode()
    return frame[:6] + struct.pack("!I", len(encoded)) + encoded + frame[10 + length :]


def test_the_unchanged_frame_is_accepted() -> None:
    assert wire.decode_task(task_frame()).prompt.text == "t"


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"model": "DROP"},
        {"model": 7},
        {"max_masks": True},
        {"max_masks": 1.5},
        {"threshold": "0.5"},
        {"text": "x" * 10_001},
        {"points": [{"x": 1, "y": 2}]},
        {"points": [3]},
        {"points": {}},
        {"boxes": [{"box": [1, 2, 3], "positive": True, "object_id": None}]},
        {"rendering": {"style": "oil", "format": "png", "max_pictures": 1, "fit_within": None}},
        {"picture": {"media_type": "image/png", "width": 2, "height": 3, "blob": 1}},
        {"blobs": [4]},
        {"blobs": [-1, 4]},
        {"blobs": [0] * 65},
    ],
)
def test_a_departure_from_the_format_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WireError):
        wire.decode_task(task_frame(**changes))


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for decode in (wire.decode_task, wire.decode_result, wire.decode_error):
        with pytest.raises(WireError):
            decode(noise)


@given(st.data())
def test_a_damaged_frame_is_refused_or_read_but_never_crashes(data: st.DataObject) -> None:
    frame = bytearray(task_frame())
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(frame)))
    with contextlib.suppress(WireError):
        wire.decode_task(bytes(frame[:end]))


def test_kinds_are_not_mixed_up() -> None:
    with pytest.raises(WireError, match="result was expected"):
        wire.decode_result(task_frame())


def test_nesting_does_not_exhaust_the_stack() -> None:
    header = b'{"blobs":' + b"[" * 100_000 + b"}"
    with pytest.raises(WireError):
        wire.decode_task(b"SAM3\x01\x01" + struct.pack("!I", len(header)) + header)


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": Prompt(points=(PointPrompt(x=NAN, y=0),))}, "points"),
        ({"prompt": Prompt(boxes=(BoxPrompt(x_min=0, y_min=0, x_max=float("inf"), y_max=1),))}, "boxes"),
        ({"threshold": NAN}, "threshold"),
        ({"prompt": Prompt(text="x" * 10_001)}, "prompt"),
        ({"prompt": Prompt(points=(PointPrompt(x=0, y=0),) * 10_001)}, "points"),
        ({"picture": Picture(data=bytes(61 * 2**20), media_type="image/png", width=1, height=1)}, "picture"),
    ],
)
def test_what_no_frame_has_room_or_a_form_for_is_refused_when_sending(changes: dict[str, Any], field: str) -> None:
    task: dict[str, Any] = {
        "picture": Picture(data=b"", media_type="image/png", width=1, height=1),
        "prompt": Prompt(text="cat"),
    }
    with pytest.raises(InputRejected) as refusal:
        wire.encode_task(SegmentTask(model="m", **(task | changes)))
    assert refusal.value.field == field


def test_the_longest_text_and_the_most_points_still_fit_a_header() -> None:
    point = PointPrompt(x=-1.2345678901234567e-300, y=-1.2345678901234567e-300, object_id=2**31)
    prompt = Prompt(text="\x00" * 10_000, points=(point,) * 1_000)
    picture = Picture(data=b"", media_type="image/png", width=1, height=1)
    assert wire.decode_task(wire.encode_task(SegmentTask(model="m", picture=picture, prompt=prompt))).prompt == prompt
