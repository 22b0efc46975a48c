"""How the OpenAI SDKs expect answers to be shaped: the error object and the headers that steer their retries."""

from fastapi import Response
from fastapi.responses import JSONResponse

from gateway.dialect import DialectRoute, retry_after_header
from gateway.errors import Problem

_PARAMETERS = {
    "picture": "image",
    "points": "point_prompts",
    "boxes": "box_prompts",
    "mask": "mask_prompt",
}
"""Parts of a task that inference may find fault with, by the parameter that they came in."""


def render_problem(problem: Problem) -> Response:
    """`{"error": {message, type, code, param}}`, and `x-should-retry` so that the SDK repeats what can succeed."""
    headers = {"x-should-retry": "true" if problem.retryable else "false"}
    if problem.retry_after_seconds is not None:
        headers["retry-after"] = retry_after_header(problem.retry_after_seconds)
    if problem.status == 401:
        headers["www-authenticate"] = 'Bearer realm="sam3"'
    body = {
        "error": {
            "message": problem.message,
            "type": problem.type,
            "code": problem.code,
            "param": problem.param or _PARAMETERS.get(problem.task_part or "", problem.task_part),
        }
    }
    return JSONResponse(body, status_code=problem.status, headers=headers)


class OpenAIRoute(DialectRoute):
    """A route that answers errors in OpenAI's shape."""

    render = staticmethod(render_problem)
