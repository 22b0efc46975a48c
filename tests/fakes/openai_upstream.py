"""An OpenAI-compatible images API that segments without a model, and makes grey pictures from text."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference.masks import encode_rle, tighten
from tests.fakes.upstream import REFUSALS, RETRY_AFTER_SECONDS, Asked, Upstream, bitmap, mask_png, score, size_of
from tests.pictures import picture


@dataclass
class OpenAIUpstream(Upstream):
    """`app` is the program; its base URL ends in /v1."""

    @property
    def app(self) -> Starlette:
        """The program."""
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/images/edits", self._edit, methods=["POST"]),
                Route("/v1/images/generations", self._generate, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": []}) if self.knows(request) else problem("bad_key")

    async def _edit(self, request: Request) -> Response:
        async with request.form() as form:
            upload: Any = form["image"]
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            sent = await upload.read()
        points = json.loads(fields.get("point_prompts", "[]"))
        boxes = json.loads(fields.get("box_prompts", "[]"))
        asked = Asked(
            fields["model"],
            sent,
            fields["prompt"],
            tuple((p["x"], p["y"], p["label"]) for p in points),
            tuple((b["x_min"], b["y_min"], b["x_max"], b["y_max"]) for b in boxes),
            int(fields["max_masks"]),
            fields,
        )
        if (refused := await self._refused(request, asked)) is not None:
            return refused
        width, height = size_of(sent)
        count = 0 if self.behaviour == "nothing_found" else asked.max_masks
        data = []
        for index in range(count):
            region = tighten(bitmap(width, height, index), width=width, height=height)
            assert region is not None
            item = {
                "rle": encode_rle(region),
                "score": score(index),
                "box": dict(zip(("x_min", "y_min", "x_max", "y_max"), region.box, strict=True)),
            }
            if index < int(fields.get("n", "0")):
                item["b64_json"] = base64.b64encode(mask_png(width, height, index)).decode()
            data.append(item)
        return JSONResponse({"created": 1, "data": data, "size": f"{width}x{height}"})

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        asked = Asked(body["model"], None, body["prompt"], max_masks=body["n"], fields=body)
        if (refused := await self._refused(request, asked)) is not None:
            return refused
        made = base64.b64encode(picture(32, 24)).decode()
        return JSONResponse({"created": 1, "data": [{"b64_json": made} for _ in range(body["n"])]})

    async def _refused(self, request: Request, asked: Asked) -> Response | None:
        if not self.knows(request):
            return problem("bad_key")
        self.asked.append(asked)
        return problem(self.behaviour) if self.behaviour in REFUSALS else await self.misbehave()


def problem(name: str) -> Response:
    """A refusal in OpenAI's shape."""
    status, words = REFUSALS[name]
    error = {"message": words, "type": "some_error", "code": name, "param": None}
    return JSONResponse({"error": error}, status_code=status, headers={"retry-after": str(RETRY_AFTER_SECONDS)})
