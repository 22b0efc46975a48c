"""One contract for every upstream provider: what it is asked, what it makes of answers, and what may go elsewhere."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.errors import (
    CredentialRefused,
    InferenceError,
    InputRejected,
    ProviderFailed,
    ProviderSaturated,
    ProviderTimedOut,
    ProviderUnreachable,
)
from inference.http import Upstream, UpstreamClient
from inference.masks import decode_rle
from inference.pictures import inspect
from inference.provider import Credential
from inference.router import certainly_not_started
from inference.task import (
    BoxPrompt,
    GenerateTask,
    MaskStyle,
    PictureFormat,
    PointPrompt,
    Prompt,
    Rendering,
    SegmentResult,
    SegmentTask,
)
from inference.transport import AiohttpTransport
from tests.contract.providers import KINDS, Kind, Pair, pair_of
from tests.fakes.upstream import GOOD_KEY, RETRY_AFTER_SECONDS, bitmap, score
from tests.pictures import picture

GOOD = Credential("test", GOOD_KEY)
MODEL = "meta/sam-3-image"
PATIENCE_SECONDS = 30.0


@pytest.fixture(params=KINDS, ids=repr)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with pair_of(request.param) as pair:
        yield pair


@pytest.fixture(params=[kind for kind in KINDS if kind.name != "openai"], ids=repr)
async def queueing(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """The providers that take work first and answer later."""
    async with pair_of(request.param) as pair:
        yield pair


def a_task(**fields: Any) -> SegmentTask:
    width, height = fields.pop("size", (40, 30))
    data = fields.pop("data", None) or picture(width, height)
    defaults: dict[str, Any] = {"model": MODEL, "picture": inspect(data), "prompt": Prompt(text="a red circle")}
    return SegmentTask(**(defaults | fields))


async def segment(
    pair: Pair, task: SegmentTask | None = None, *, key: Credential = GOOD, seconds: float = PATIENCE_SECONDS
) -> SegmentResult:
    deadline = asyncio.get_running_loop().time() + seconds
    return await pair.provider.segment(task or a_task(), deadline=deadline, credential=key)


async def failure(pair: Pair, behaviour: str, **options: Any) -> InferenceError:
    pair.upstream.behaviour = behaviour
    with pytest.raises(InferenceError) as raised:
        await segment(pair, **options)
    assert GOOD_KEY not in str(raised.value)
    return raised.value


async def test_the_mask_comes_back_pixel_for_pixel_with_its_box_and_run_lengths(pair: Pair) -> None:
    result = await segment(pair, a_task(size=(40, 30)))
    [mask] = result.masks
    assert (result.width, result.height) == (40, 30)
    assert mask.rle is not None
    assert (decode_rle(mask.rle, 40, 30) == bitmap(40, 30, 0)).all()
    assert mask.box == (0, 0, 20, 15)
    assert mask.picture is not None
    assert (np.asarray(Image.open(io.BytesIO(mask.picture))) == bitmap(40, 30, 0) * 255).all()


async def test_scores_come_back_where_the_provider_says_that_it_has_them(pair: Pair) -> None:
    capabilities = pair.provider.capabilities(MODEL)
    assert capabilities is not None
    [mask] = (await segment(pair)).masks
    assert mask.score == (score(0) if capabilities.scores else None)


async def test_everything_that_the_provider_can_do_arrives_there(pair: Pair) -> None:
    data = picture(40, 30, format="JPEG")
    prompts = (
        Prompt(text="a red circle"),
        Prompt(points=(PointPrompt(x=3, y=4), PointPrompt(x=39, y=29, positive=False))),
        Prompt(boxes=(BoxPrompt(x_min=1, y_min=2, x_max=40, y_max=30), BoxPrompt(x_min=0, y_min=0, x_max=5, y_max=6))),
    )
    for prompt in prompts:
        await segment(pair, a_task(data=data, prompt=prompt))
    text, points, boxes = pair.upstream.asked
    assert [asked.picture for asked in pair.upstream.asked] == [data] * 3
    assert (text.text, points.text) == ("a red circle", "")
    assert points.points == ((3, 4, 1), (39, 29, 0))
    assert boxes.boxes == ((1, 2, 40, 30), (0, 0, 5, 6))
    assert "wheel" not in str(points.fields)


async def test_several_masks_come_best_first_or_are_known_to_be_too_much(pair: Pair) -> None:
    task = a_task(max_masks=3, needs_scores=True, rendering=Rendering(max_pictures=2))
    capabilities = pair.provider.capabilities(MODEL)
    assert capabilities is not None
    if capabilities.masks_max < 3:
        assert capabilities.lacking(task) == ("3 masks", "scores")
        return
    assert capabilities.lacking(task) == ()
    masks = (await segment(pair, task)).masks
    assert [mask.score for mask in masks] == [score(0), score(1), score(2)]
    assert [mask.picture is not None for mask in masks] == [True, True, False]


async def test_a_picture_that_lies_on_its_side_is_sent_as_it_is_seen(pair: Pair) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    task = a_task(data=picture(40, 30, format="JPEG", exif=exif))
    assert (task.picture.width, task.picture.height) == (30, 40)
    result = await segment(pair, task)
    assert (result.width, result.height) == (30, 40)
    assert pair.upstream.asked[0].picture != task.picture.data


async def test_nothing_found_is_an_answer(pair: Pair) -> None:
    pair.upstream.behaviour = "nothing_found"
    assert (await segment(pair)).masks == ()


async def test_the_run_length_model_returns_no_pictures(pair: Pair) -> None:
    task = a_task(model="meta/sam-3-image-rle", rendering=Rendering(max_pictures=0))
    [mask] = (await segment(pair, task)).masks
    assert mask.rle is not None
    assert (decode_rle(mask.rle, 40, 30) == bitmap(40, 30, 0)).all()
    assert mask.picture is None


async def test_a_large_picture_arrives_whole(pair: Pair) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (800, 800, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    await segment(pair, a_task(data=out.getvalue()))
    assert pair.upstream.asked[0].picture == out.getvalue()


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("bad_key", CredentialRefused),
        ("no_money", CredentialRefused),
        ("forbidden", CredentialRefused),
        ("busy", ProviderSaturated),
        ("unavailable", ProviderSaturated),
        ("reject", InputRejected),
        ("break", ProviderFailed),
        ("garbage", ProviderFailed),
        ("odd", ProviderFailed),
        ("gigabyte", ProviderFailed),
        ("endless", ProviderFailed),
        ("hang_up", ProviderFailed),
    ],
)
async def test_each_way_to_fail_has_its_own_name(pair: Pair, behaviour: str, expected: type[InferenceError]) -> None:
    error = await failure(pair, behaviour)
    assert type(error) is expected
    assert certainly_not_started(error) == (expected in (CredentialRefused, ProviderSaturated))
    if isinstance(error, ProviderSaturated):
        assert error.retry_after_seconds == RETRY_AFTER_SECONDS
    if behaviour == "reject":
        assert "too dark" in error.message
    assert len(pair.upstream.asked) == 1


async def test_a_provider_that_stalls_ends_at_the_deadline(pair: Pair) -> None:
    error = await failure(pair, "stall", seconds=0.3)
    assert type(error) is ProviderTimedOut
    assert not certainly_not_started(error)


async def test_a_deadline_in_the_past_asks_nobody(pair: Pair) -> None:
    assert isinstance(await failure(pair, "succeed", seconds=-1), ProviderTimedOut)
    assert pair.upstream.asked == []


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [("job_rejected", InputRejected), ("job_broken", ProviderFailed), ("status_breaks", ProviderFailed)],
)
async def test_work_that_was_taken_is_never_sent_again(
    queueing: Pair, behaviour: str, expected: type[InferenceError]
) -> None:
    pair = queueing
    error = await failure(pair, behaviour)
    assert isinstance(error, expected)
    assert not certainly_not_started(error)
    assert len(pair.upstream.asked) == 1


async def test_a_lock_on_the_account_does_not_stop_what_is_running(pair: Pair) -> None:
    pair.upstream.behaviour = "status_locked"
    assert len((await segment(pair)).masks) == 1
    assert len(pair.upstream.asked) == 1


async def test_what_is_not_done_in_time_is_cancelled_where_that_is_possible(queueing: Pair) -> None:
    assert isinstance(await failure(queueing, "never_done", seconds=1.0), ProviderTimedOut)
    jobs = getattr(queueing.upstream, "jobs", {})
    assert [job.cancelled for job in jobs.values()] == [True] * len(jobs)


async def test_an_upstream_that_is_not_there_certainly_did_not_start(pair: Pair) -> None:
    client = UpstreamClient(AiohttpTransport())
    gone = replace(pair, provider=pair.kind.provider(Upstream("http://127.0.0.1:1", client, client)))
    try:
        with pytest.raises(ProviderUnreachable) as raised:
            await segment(gone)
    finally:
        await client.aclose()
    assert certainly_not_started(raised.value)


async def test_a_key_is_checked_without_any_work(pair: Pair) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    await pair.provider.check(GOOD, deadline=deadline)
    with pytest.raises(CredentialRefused):
        await pair.provider.check(Credential("test", "another-key-0123456789"), deadline=deadline)
    assert pair.upstream.asked == []


@pytest.mark.parametrize("style", list(MaskStyle))
@pytest.mark.parametrize("form", list(PictureFormat))
async def test_fal_gives_every_style_format_and_size(style: MaskStyle, form: PictureFormat) -> None:
    async with pair_of(_kind("fal")) as pair:
        rendering = Rendering(style=style, format=form, fit_within=(20, 20))
        result = await segment(pair, a_task(rendering=rendering))
        assert (result.width, result.height) == (20, 15)
        shown = Image.open(io.BytesIO(result.masks[0].picture or b""))
        assert (shown.size, str(shown.format).lower()) == ((20, 15), form.value)
        assert result.masks[0].box == (0, 0, 10, 8)


async def test_masks_behind_addresses_are_fetched_without_the_key() -> None:
    async with pair_of(_kind("fal")) as pair:
        pair.upstream.behaviour = "masks_by_url"
        [mask] = (await segment(pair)).masks
        assert mask.rle is not None
        assert (decode_rle(mask.rle, 40, 30) == bitmap(40, 30, 0)).all()


@pytest.mark.parametrize(
    ("task", "lacking"),
    [
        (a_task(prompt=Prompt(text="x" * 33)), "a prompt of more than 32 characters"),
        (a_task(prompt=Prompt(text="x", points=(PointPrompt(x=1, y=1),))), "text together with points or boxes"),
        (a_task(prompt=Prompt(points=(PointPrompt(x=1, y=1, object_id=3),))), "any object ids"),
        (a_task(threshold=0.4), "a threshold of 0.4"),
        (a_task(prompt=Prompt(mask=inspect(picture(40, 30)))), "mask prompts"),
    ],
)
async def test_what_wavespeed_cannot_do_is_known_before_it_is_asked(task: SegmentTask, lacking: str) -> None:
    async with pair_of(_kind("wavespeed")) as pair:
        capabilities = pair.provider.capabilities(MODEL)
        assert capabilities is not None
        assert capabilities.lacking(task) == (lacking,)
        assert pair.provider.capabilities("meta/sam-3-1-image") is None


async def test_pictures_are_made_from_text() -> None:
    async with pair_of(_kind("openai")) as pair:
        provider: Any = pair.provider
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        task = GenerateTask(model=MODEL, text="a red circle", count=2)
        result = await provider.generate(task, deadline=deadline, credential=GOOD)
        assert (len(result.masks), result.width, result.height) == (2, 32, 24)
        assert all(mask.picture and mask.rle is None for mask in result.masks)
        assert pair.upstream.asked[0].text == "a red circle"


def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)
