"""fal's queue without a model: jobs wait, run, and are done at the third question about them."""

import itertools
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference.masks import encode_rle, tighten
from tests.fakes.upstream import (
    REFUSALS,
    RETRY_AFTER_SECONDS,
    Asked,
    Upstream,
    bitmap,
    from_data_uri,
    mask_png,
    score,
    size_of,
    to_data_uri,
)


@dataclass
class Job:
    """One submitted request."""

    app: str
    asked: Asked
    questions: int = 0
    cancelled: bool = False


@dataclass
class FalUpstream(Upstream):
    """`app` is the program. Beside the common behaviours, of the job once it was taken:

    job_rejected | job_broken | never_done | status_breaks | status_locked | masks_by_url
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    questions: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def app(self) -> Starlette:
        """The program."""
        return Starlette(
            routes=[
                Route("/files/{owner}/{width:int}/{height:int}/{index:int}.png", self._file),
                Route("/{owner}/{name}/requests/{request_id}/status", self._status),
                Route("/{owner}/{name}/requests/{request_id}/cancel", self._cancel, methods=["PUT"]),
                Route("/{owner}/{name}/requests/{request_id}", self._result),
                Route("/{app:path}", self._submit, methods=["POST"]),
            ]
        )

    async def _submit(self, request: Request) -> Response:
        if not self.knows(request):
            return problem("bad_key")
        body = await request.json()
        asked = Asked(
            request.path_params["app"],
            from_data_uri(body["image_url"]),
            body["prompt"],
            tuple((p["x"], p["y"], p["label"]) for p in body["point_prompts"]),
            tuple((b["x_min"], b["y_min"], b["x_max"], b["y_max"]) for b in body["box_prompts"]),
            body["max_masks"] if body["return_multiple_masks"] else 1,
            body,
        )
        self.asked.append(asked)
        if self.behaviour in REFUSALS:
            return problem(self.behaviour)
        if (answer := await self.misbehave()) is not None:
            return answer
        request_id = f"job-{len(self.jobs)}"
        self.jobs[request_id] = Job(request.path_params["app"], asked)
        self.began.set()
        return JSONResponse({"status": "IN_QUEUE", "request_id": request_id, "queue_position": 0})

    async def _status(self, request: Request) -> Response:
        if not self.knows(request):
            return problem("bad_key")
        job = self.jobs.get(request.path_params["request_id"])
        if job is None:
            return JSONResponse({"status": "NOT_FOUND"}, status_code=404)
        job.questions += 1
        if self.behaviour == "status_breaks" or (self.behaviour == "status_locked" and job.questions < 3):
            return problem("break" if self.behaviour == "status_breaks" else "forbidden")
        if job.questions < 3 or self.behaviour == "never_done":
            return JSONResponse({"status": ("IN_QUEUE", "IN_PROGRESS")[job.questions > 1]}, status_code=202)
        return JSONResponse({"status": "COMPLETED"})

    async def _cancel(self, request: Request) -> Response:
        self.jobs[request.path_params["request_id"]].cancelled = True
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, status_code=202)

    async def _result(self, request: Request) -> Response:
        if self.behaviour in ("job_rejected", "job_broken"):
            return problem("reject" if self.behaviour == "job_rejected" else "break")
        job = self.jobs[request.path_params["request_id"]]
        assert job.asked.picture is not None
        width, height = size_of(job.asked.picture)
        count = 0 if self.behaviour == "nothing_found" else job.asked.max_masks
        scores: dict[str, Any] = {"scores": [score(index) for index in range(count)]}
        if job.app.endswith("-rle"):
            regions = [tighten(bitmap(width, height, i), width=width, height=height) for i in range(count)]
            texts = [encode_rle(region) for region in regions if region is not None]
            return JSONResponse({"rle": texts[0] if len(texts) == 1 else texts, **scores})
        base = str(request.base_url).rstrip("/")
        urls = [
            f"{base}/files/x/{width}/{height}/{i}.png"
            if self.behaviour == "masks_by_url"
            else to_data_uri(mask_png(width, height, i))
            for i in range(count)
        ]
        return JSONResponse({"image": None, "masks": [{"url": url} for url in urls], **scores})

    async def _file(self, request: Request) -> Response:
        assert "authorization" not in request.headers, "keys are not sent to addresses in answers"
        p = request.path_params
        return Response(mask_png(p["width"], p["height"], p["index"]), media_type="image/png")


def problem(name: str) -> Response:
    """A refusal in fal's shape."""
    status, words = REFUSALS[name]
    detail: Any = words
    if status == 422:
        detail = [{"loc": ["body", "image_url"], "msg": words, "type": "image_load_error"}]
    return JSONResponse({"detail": detail}, status_code=status, headers={"retry-after": str(RETRY_AFTER_SECONDS)})
