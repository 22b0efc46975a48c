"""The HTTP program: routers, middleware, and what is answered when nothing matches."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gateway.account import auto_topup, notices, provider_credentials, return_page, statement, topups
from gateway.body_limit import BodyLimit
from gateway.dialect import problem_of
from gateway.dialects import openai_images, openai_models
from gateway.dialects.openai_shape import render_problem
from gateway.errors import describe, http_problem
from gateway.health import router as health
from gateway.observability import RequestLog
from gateway.refusals import BodyTooLarge
from gateway.resources import open_resources
from gateway.results import router as results
from gateway.settings import Settings
from gateway.stripe_events import router as stripe_events
from inference.provider import Provider

PATH_CHARACTERS_MAX = 200


def create_app(settings: Settings, *, provider: Provider | None = None) -> FastAPI:
    """The gateway as an ASGI program. Its resources open when it starts and close, settled, when it stops.

    `provider` serves every model in place of the pools that the settings name.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_resources(settings, provider) as resources:
            app.state.resources = resources
            yield

    app = FastAPI(
        title="SAM 3 gateway",
        version=version("sam3-gateway"),
        description="SAM 3 image segmentation, sold by the picture.",
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # asks the environment at each request
    )
    for router in (
        openai_images.router,
        openai_models.router,
        statement.router,
        notices.router,
        provider_credentials.router,
        topups.router,
        auto_topup.router,
        return_page.router,
        stripe_events,
        results,
        health,
    ):
        app.include_router(router)
    app.add_exception_handler(HTTPException, _unmatched)
    app.add_exception_handler(Exception, _failed)
    # The last added runs first: the log sees every answer, also those that the limit gives.
    app.add_middleware(BodyLimit, limit_bytes=settings.body_limit_bytes, render=_too_large)
    app.add_middleware(RequestLog)
    return app


def _unmatched(request: Request, error: Exception) -> Response:
    """What no route answered for itself: unknown paths, wrong methods, refusals of plain routes."""
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        return render_problem(http_problem(404, _where_to_look(request)))
    return render_problem(problem_of(error))


def _failed(request: Request, error: Exception) -> Response:
    """A bug outside every route. The framework answers it outside the log, which gives others their request id."""
    response = render_problem(problem_of(error))
    response.headers["x-request-id"] = request.state.request_id
    return response


def _where_to_look(request: Request) -> str:
    """That nothing is here, and what was probably meant: the base URL of OpenAI's packages ends in /v1."""
    path = request.url.path
    message = f"Nothing answers {request.method} {path[:PATH_CHARACTERS_MAX]} here."
    meant = path.removeprefix("/v1") if path.startswith("/v1/v1/") else f"/v1{path}"
    known = any(route.matches({**request.scope, "path": meant})[0] is Match.FULL for route in request.app.routes)
    return f"{message} Did you mean {meant}? The base URL for OpenAI's packages ends in /v1." if known else message


def _too_large(limit_bytes: int) -> Response:
    return render_problem(
        describe(BodyTooLarge(f"The body is larger than {limit_bytes // 2**20} MiB. Send smaller or fewer pictures."))
    )
