"""WaveSpeed's API without a model: tasks are done at the third question, large pictures are uploaded by ticket."""

from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.fakes.upstream import REFUSALS, RETRY_AFTER_SECONDS, Asked, Upstream, from_data_uri, mask_png, size_of


@dataclass
class WaveSpeedUpstream(Upstream):
    """`app` is the program. Beside the common behaviours, of the task once it was taken:

    job_rejected | job_broken | never_done | status_breaks | status_locked
    """

    questions: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)

    @property
    def app(self) -> Starlette:
        """The program."""
        return Starlette(
            routes=[
                Route("/api/v3/balance", self._balance),
                Route("/api/v3/media/uploads", self._ticket, methods=["POST"]),
                Route("/uploads/{name}", self._upload, methods=["PUT"]),
                Route("/masks/{width:int}/{height:int}.png", self._mask),
                Route("/api/v3/predictions/{task}/result", self._result),
                Route("/api/v3/{model:path}", self._submit, methods=["POST"]),
            ]
        )

    async def _balance(self, request: Request) -> Response:
        return fine({"balance": 1.5}) if self.knows(request) else problem("bad_key")

    async def _ticket(self, request: Request) -> Response:
        if not self.knows(request):
            return problem("bad_key")
        name = f"upload-{len(self.uploads)}"
        base = str(request.base_url)
        upload = {"method": "PUT", "url": f"{base}uploads/{name}", "headers": {"x-ticket": name}}
        return fine({"upload": upload, "download_url": f"{base}uploads/{name}"})

    async def _upload(self, request: Request) -> Response:
        name = request.path_params["name"]
        assert request.headers["x-ticket"] == name, "exactly the ticket's headers"
        assert "authorization" not in request.headers, "keys are not sent to tickets"
        self.uploads[name] = await request.body()
        return Response(status_code=201)

    async def _submit(self, request: Request) -> Response:
        if not self.knows(request):
            return problem("bad_key")
        body = await request.json()
        image = body["image"]
        picture = from_data_uri(image) if image.startswith("data:") else self.uploads[image.rpartition("/")[2]]
        self.asked.append(
            Asked(
                request.path_params["model"],
                picture,
                body["prompt"],
                tuple((p["x"], p["y"], p["label"]) for p in body["point_prompts"]),
                tuple((b["x_min"], b["y_min"], b["x_max"], b["y_max"]) for b in body["box_prompts"]),
                1,
                body,
            )
        )
        if self.behaviour in REFUSALS:
            return problem(self.behaviour)
        if (answer := await self.misbehave()) is not None:
            return answer
        task = f"{len(self.asked) - 1:032x}"
        self.questions[task] = 0
        self.began.set()
        return fine({"id": task, "status": "created", "outputs": []})

    async def _result(self, request: Request) -> Response:
        if not self.knows(request):
            return problem("bad_key")
        task = request.path_params["task"]
        self.questions[task] += 1
        if self.behaviour == "status_breaks" or (self.behaviour == "status_locked" and self.questions[task] < 3):
            return problem("break" if self.behaviour == "status_breaks" else "forbidden")
        if self.questions[task] < 3 or self.behaviour == "never_done":
            return fine({"id": task, "status": "processing", "outputs": []})
        if self.behaviour in ("job_rejected", "job_broken"):
            code = 1402 if self.behaviour == "job_rejected" else 5000
            return fine({"id": task, "status": "failed", "outputs": [], "code": code, "error": REFUSALS["reject"][1]})
        if self.behaviour == "nothing_found":
            return fine({"id": task, "status": "completed", "outputs": []})
        picture = self.asked[int(task, 16)].picture
        assert picture is not None
        width, height = size_of(picture)
        return fine({"id": task, "status": "completed", "outputs": [f"{request.base_url}masks/{width}/{height}.png"]})

    async def _mask(self, request: Request) -> Response:
        assert "authorization" not in request.headers, "keys are not sent to addresses in answers"
        return Response(mask_png(request.path_params["width"], request.path_params["height"], 0))


def fine(data: dict[str, Any]) -> Response:
    """The envelope."""
    return JSONResponse({"code": 200, "message": "success", "data": data})


def problem(name: str) -> Response:
    """A refusal in WaveSpeed's shape."""
    status, words = REFUSALS[name]
    headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
    return JSONResponse({"code": status, "message": words}, status_code=status, headers=headers)
