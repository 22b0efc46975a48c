"""What every dialect shares: how long a call may take, where prompts may lie, and how its routes answer errors."""

import math
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.errors import Problem, describe, http_problem
from gateway.observability import log_problem
from gateway.refusals import RequestInvalid
from inference.task import BoxPrompt, Picture, PointPrompt, Prompt

_CANCEL_AFTER = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhSMH]?)")
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}

Renderer = Callable[[Problem], Response]
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class DialectRoute(APIRoute):
    """A route whose refusals and bugs are answered in its dialect. Subclasses set `render`."""

    render: Renderer

    def get_route_handler(self) -> Endpoint:
        """FastAPI's handler with every exception turned into the dialect's answer."""
        return answering(type(self).render, super().get_route_handler())


def answering(render: Renderer, endpoint: Endpoint) -> Endpoint:
    """`endpoint` with its exceptions rendered, and with the headers that were merged for the request."""

    async def answer(request: Request) -> Response:
        try:
            response = await endpoint(request)
        except Exception as error:
            response = render(problem_of(error))
        headers: dict[str, str] = getattr(request.state, "answer_headers", {})
        response.headers.update(headers)
        return response

    return answer


def problem_of(error: Exception) -> Problem:
    """The problem that an exception in a route stands for; logs what is our fault."""
    if isinstance(error, HTTPException):
        return http_problem(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        return describe(RequestInvalid(f"'{param}': {first['msg']}.", param=param))
    if isinstance(error, ClientDisconnect):  # nobody will read this, and it is no fault of ours to log
        return http_problem(400, "The request ended before its body was complete.")
    problem = describe(error)
    log_problem(problem, error)
    return problem


def call_timeout_seconds(request: Request, maximum_seconds: float) -> float:
    """The time a call may take: the server's maximum, or less where the client says that it will not wait as long.

    It says so with the OpenAI SDK's headers, or with `Cancel-After`: seconds, or a number with s, m or h behind it.
    """
    announced = request.headers.get("x-stainless-read-timeout") or request.headers.get("x-stainless-timeout")
    maximum_seconds = min(maximum_seconds, _cancel_after_seconds(request.headers.get("cancel-after")))
    try:
        seconds = float(announced) if announced else maximum_seconds
    except ValueError:
        return maximum_seconds
    return min(maximum_seconds, seconds) if math.isfinite(seconds) and seconds > 0 else maximum_seconds


def _cancel_after_seconds(header: str | None) -> float:
    """Infinity for a header that is missing or not understood."""
    found = _CANCEL_AFTER.fullmatch(header.strip()) if header is not None else None
    seconds = float(found[1]) * _UNIT_SECONDS[found[2].lower()] if found is not None else 0.0
    return seconds if seconds > 0 else math.inf


def require_inside(prompt: Prompt, picture: Picture, names: dict[str, str]) -> None:
    """Refuse points and boxes outside the picture, and a mask of another size.

    `names` gives the dialect's parameter for "points", "boxes" and "mask". A box may touch the edges, so its maxima
    may equal the width and height. Raises RequestInvalid.
    """
    for index, point in enumerate(prompt.points):
        _require_point(point, picture, f"{names['points']}[{index}]")
    for index, box in enumerate(prompt.boxes):
        _require_box(box, picture, f"{names['boxes']}[{index}]")
    mask = prompt.mask
    if mask is not None and (mask.width, mask.height) != (picture.width, picture.height):
        raise RequestInvalid(
            f"The mask is {mask.width}x{mask.height} pixels but the picture is {picture.width}x{picture.height}. "
            "Send a mask of the picture's size.",
            param=names["mask"],
        )


def _require_point(point: PointPrompt, picture: Picture, name: str) -> None:
    for axis, value, side in (("x", point.x, picture.width), ("y", point.y, picture.height)):
        if not 0 <= value < side:
            raise RequestInvalid(
                f"{axis} = {value:g} lies outside the picture of {picture.width}x{picture.height} pixels.",
                param=f"{name}.{axis}",
            )


def _require_box(box: BoxPrompt, picture: Picture, name: str) -> None:
    corners: list[tuple[str, float, int]] = [
        ("x_min", box.x_min, picture.width),
        ("y_min", box.y_min, picture.height),
        ("x_max", box.x_max, picture.width),
        ("y_max", box.y_max, picture.height),
    ]
    for corner, value, side in corners:
        if not 0 <= value <= side:
            raise RequestInvalid(
                f"{corner} = {value:g} lies outside the picture of {picture.width}x{picture.height} pixels.",
                param=f"{name}.{corner}",
            )


def retry_after_header(seconds: float) -> str:
    """Whole seconds, at least one and at most a minute: clients sleep as they are told."""
    return str(max(1, min(60, math.ceil(seconds))))


def merge_headers(request: Request, headers: dict[str, Any]) -> None:
    """Have `headers` on whatever this request is answered with."""
    current: dict[str, str] = getattr(request.state, "answer_headers", {})
    request.state.answer_headers = current | {name: str(value) for name, value in headers.items()}
