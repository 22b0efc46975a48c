"""OpenAI's images operations: /v1/images/generations and /v1/images/edits, for the `openai` packages unmodified."""

import asyncio
import base64
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from billing.money import format_usd
from gateway.auth import Caller
from gateway.call import Call, Completed, StoredMask, units_of
from gateway.catalog import Model, find_model
from gateway.dependencies import caller_of, metered_caller_of, resources_of
from gateway.dialect import answering, call_timeout_seconds, merge_headers, require_inside
from gateway.dialects.openai_schema import NESTED_FIELDS, ImageRequest, parse_request
from gateway.dialects.openai_shape import render_problem
from gateway.forms import rebuild
from gateway.identifiers import PREDICTION, public_id
from gateway.media.intake import Intake
from gateway.refusals import PictureMissing, RequestInvalid
from gateway.resources import Resources
from inference.task import (
    BoxPrompt,
    GenerateTask,
    MaskSelects,
    Picture,
    PointPrompt,
    Prompt,
    Rendering,
    SegmentTask,
    Task,
)

router = APIRouter()

FORM_FIELDS_MAX = 4_000
PROMPT_NAMES = {"points": "point_prompts", "boxes": "box_prompts", "mask": "mask_prompt"}


async def segment(request: Request) -> Response:
    """Segment one or several pictures; each costs one unit of the model's price when it is done."""
    resources = await resources_of(request)
    caller = await metered_caller_of(request, resources, await caller_of(request, resources))
    wanted = await _read(request)
    model = find_model(wanted.model)
    tasks: tuple[Task, ...]
    if wanted.sources:
        tasks = await _tasks(wanted, model, caller, resources)
    else:
        tasks = (await _generation(wanted, model, caller, resources),)
    completed = await resources.calls.segment(
        Call(
            caller=caller,
            model=model,
            tasks=tasks,
            dialect="openai",
            request_id=request.state.request_id,
            timeout_seconds=call_timeout_seconds(request, resources.settings.call_timeout_seconds),
            store_pictures=wanted.response_format == "url",
        )
    )
    merge_headers(request, _cost_headers(completed))
    return JSONResponse(_answer(completed, wanted, tasks, resources))


# Plain routes: FastAPI's own handling costs as much as all of the metering.
for path in ("/v1/images/generations", "/v1/images/edits"):
    router.add_route(path, answering(render_problem, segment), methods=["POST"])


async def _read(request: Request) -> ImageRequest:
    """The request whatever way it was encoded; unknown encodings are read as JSON."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return parse_request(await request.body())
    try:
        async with request.form(max_files=64, max_fields=FORM_FIELDS_MAX, max_part_size=32 * 1024 * 1024) as form:
            items = [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except MultiPartException as error:
        raise RequestInvalid(f"The multipart form cannot be read: {error.message}") from None
    return parse_request(rebuild(items, json_fields=NESTED_FIELDS))


async def _generation(wanted: ImageRequest, model: Model, caller: Caller, resources: Resources) -> GenerateTask:
    """The call without a picture: passed on to a deployment that makes them from text. Raises PictureMissing."""
    text = (wanted.prompt or "").strip()
    task = GenerateTask(
        model=model.id, text=text, count=wanted.n or 1, size=wanted.fit_within, format=wanted.output_format
    )
    only_text = text and not (wanted.point_prompts or wanted.box_prompts or wanted.mask or wanted.mask_prompt)
    if only_text and model.returns_pictures and await resources.calls.can_do(caller, task):
        return task
    raise PictureMissing(
        f"'{model.id}' segments a picture, and this call has none. Send it as 'image': a data URI or https URL in "
        "JSON (extra_body={'image': ...} in the OpenAI SDK), or a file with images.edit(image=...).",
        param="image",
    )


async def _tasks(wanted: ImageRequest, model: Model, caller: Caller, resources: Resources) -> tuple[SegmentTask, ...]:
    sources = wanted.sources
    limit = resources.settings.pictures_per_call_limit
    if len(sources) > limit:
        raise RequestInvalid(f"One call takes at most {limit} pictures; this one has {len(sources)}.", param="image")
    prompt = await _prompt(wanted, resources.intake)
    pictures = await asyncio.gather(*(resources.intake.picture(source, param=name) for name, source in sources))
    for picture in pictures:
        require_inside(prompt, picture, PROMPT_NAMES if wanted.mask is None else PROMPT_NAMES | {"mask": "mask"})
    max_masks = wanted.effective_max_masks
    rendering = Rendering(
        style=wanted.effective_style,
        format=wanted.output_format,
        max_pictures=min(wanted.n or max_masks, max_masks) if model.returns_pictures else 0,
        fit_within=wanted.fit_within,
    )
    return tuple(
        SegmentTask(
            model=model.id,
            picture=picture,
            prompt=prompt,
            max_masks=max_masks,
            threshold=wanted.threshold,
            needs_scores=wanted.include_scores and "include_scores" in wanted.model_fields_set,
            rendering=rendering,
            organization=caller.organization_id.hex,
        )
        for picture in pictures
    )


async def _prompt(wanted: ImageRequest, intake: Intake) -> Prompt:
    mask, selects = await _mask(wanted, intake)
    prompt = Prompt(
        text=(wanted.prompt or "").strip() or None,
        points=tuple(
            PointPrompt(x=p.x, y=p.y, positive=p.label == 1, object_id=p.object_id) for p in wanted.point_prompts or ()
        ),
        boxes=tuple(
            BoxPrompt(
                x_min=b.x_min,
                y_min=b.y_min,
                x_max=b.x_max,
                y_max=b.y_max,
                positive=b.label == 1,
                object_id=b.object_id,
            )
            for b in wanted.box_prompts or ()
        ),
        mask=mask,
        mask_selects=selects,
    )
    if prompt.is_empty:
        raise RequestInvalid(
            "Say what to look for: 'prompt' with words, 'point_prompts', 'box_prompts' or 'mask_prompt'.",
            param="prompt",
        )
    return prompt


async def _mask(wanted: ImageRequest, intake: Intake) -> tuple[Picture | None, MaskSelects]:
    """`mask_prompt` is a mask as we return them; `mask` is OpenAI's, whose see-through part is meant."""
    if wanted.mask is not None and wanted.mask_prompt is not None:
        raise RequestInvalid("Send either 'mask' or 'mask_prompt', not both.", param="mask")
    if wanted.mask_prompt is not None:
        return await intake.picture(wanted.mask_prompt, param="mask_prompt"), MaskSelects.OPAQUE
    if wanted.mask is not None:
        return await intake.picture(wanted.mask, param="mask"), MaskSelects.TRANSPARENT
    return None, MaskSelects.OPAQUE


def _answer(
    completed: Completed, wanted: ImageRequest, tasks: tuple[Task, ...], resources: Resources
) -> dict[str, Any]:
    data = [_datum(mask, completed, wanted, len(tasks) > 1, resources) for mask in completed.masks]
    return {
        "created": int(time.time()),
        "id": public_id(PREDICTION, completed.prediction_id),
        "model": tasks[0].model,
        "data": data,
        "size": "x".join(str(side) for side in completed.sizes[0]),
        "output_format": wanted.output_format.value,
        "usage": {
            "images": sum(units_of(task) for task in tasks),
            "payer": completed.payer.value,
            "cost_micros": completed.charged_micros,
            "cost_usd": format_usd(completed.charged_micros),
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
        },
    }


def _datum(
    mask: StoredMask, completed: Completed, wanted: ImageRequest, several_pictures: bool, resources: Resources
) -> dict[str, Any]:
    datum: dict[str, Any] = {}
    if mask.media_key is not None:
        datum["url"] = resources.media.url(mask.media_key, expires_in_seconds=resources.settings.media_link_seconds)
    elif mask.picture is not None:
        datum["b64_json"] = base64.b64encode(mask.picture).decode()
    if wanted.include_scores and mask.score is not None:
        datum["score"] = round(mask.score, 4)
    if wanted.include_boxes and mask.box is not None:
        width, height = completed.sizes[mask.task_index]
        datum["box"] = dict(zip(("x_min", "y_min", "x_max", "y_max"), mask.box, strict=True))
        datum["box_normalized"] = _normalized(mask.box, width, height)
    if mask.rle is not None:
        datum["rle"] = mask.rle
    if mask.object_id is not None:
        datum["object_id"] = mask.object_id
    if several_pictures:
        datum["image_index"] = mask.task_index
    return datum


def _normalized(box: tuple[float, float, float, float], width: int, height: int) -> list[float]:
    """Centre x, centre y, width and height as shares of the picture, the form in which fal gives boxes."""
    x_min, y_min, x_max, y_max = box
    centre_x, centre_y = (x_min + x_max) / 2 / width, (y_min + y_max) / 2 / height
    return [round(v, 6) for v in (centre_x, centre_y, (x_max - x_min) / width, (y_max - y_min) / height)]


def _cost_headers(completed: Completed) -> dict[str, str]:
    headers = {"x-cost-usd": format_usd(completed.charged_micros)}
    if completed.available_micros is not None:
        headers["x-balance-usd"] = format_usd(completed.available_micros)
    return headers
