"""The HTTP program: Stripe's API as far as we use it, its idempotency, its faults, the hosted page, and knobs."""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.fakes.stripe import objects
from tests.fakes.stripe.account import Account, ApiError, invalid
from tests.fakes.stripe.delivery import Webhooks
from tests.fakes.stripe.forms import decode
from tests.fakes.stripe.hosted_page import page_routes
from tests.fakes.stripe.objects import Object
from tests.fakes.stripe.oracle import fault_in

PAGE_DEFAULT, PAGE_MAX = 10, 100
LISTS = {"payment_intents", "refunds", "disputes", "balance_transactions"}


@dataclass
class Fault:
    """Something that goes wrong with requests whose path ends in `path`, `times` times.

    `kind`: error (500 instead of the effect), error_after (500 after the effect, remembered for the key as Stripe
    does), lost (no answer after the effect), slow (after `seconds`).
    """

    path: str
    kind: str
    times: int = 1
    seconds: float = 0.0


@dataclass
class _Saved:
    """What a key was used for, and the answer; none while it is under way."""

    fingerprint: str
    answer: tuple[int, Object] | None = None


class _Lost(Response):
    """An answer that never comes: the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class FakeStripe:
    """`app` is the program. `violations` names every request that Stripe's own parameter types would not have had."""

    store: Path | None = None
    webhooks: Webhooks = field(default_factory=Webhooks)
    faults: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, Object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.account = Account(store=self.store, on_event=self.webhooks.notify)
        self._saved: dict[str, _Saved] = {}

    @property
    def events(self) -> list[Object]:
        """Everything that has happened, oldest first."""
        return list(self.account.table("events").values())

    @property
    def app(self) -> Starlette:
        api = Route("/v1/{path:path}", self._api, methods=["GET", "POST"])
        return Starlette(routes=[api, *page_routes(self.account), *self._knobs()], lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        delivering = asyncio.create_task(self.webhooks.run())
        try:
            yield
        finally:
            delivering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await delivering

    async def _api(self, request: Request) -> Response:
        path = request.path_params["path"]
        try:
            parameters = decode((await request.body()).decode() if request.method == "POST" else request.url.query)
        except ValueError as error:
            return JSONResponse(invalid(str(error)).body, status_code=400)
        fault = self._fault(path)
        status, body, replayed = await self._answer(request, path, parameters, fault)
        if fault is not None and fault.kind == "lost":
            return _Lost()
        headers = {"request-id": "req_fake"} | ({"idempotent-replayed": "true"} if replayed else {})
        return JSONResponse(body, status_code=status, headers=headers)

    async def _answer(
        self, request: Request, path: str, parameters: Object, fault: Fault | None
    ) -> tuple[int, Object, bool]:
        """Status and body, and whether they are those of an earlier request with the same key.

        As Stripe: the first result of a key is kept, failures too, unless the request never began to be carried out.
        Source: https://docs.stripe.com/api/idempotent_requests
        """
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        with self.account.lock:
            self.requests.append((request.method, path, parameters))
            try:
                self._require_key(request)
                earlier = self._earlier(key, path, parameters)
                if earlier is not None:
                    return (*earlier, True)
                operation = self._operation(request, path, parameters)
            except ApiError as error:
                return error.status, error.body, False
            if key is not None:
                self._saved[key] = _Saved(_fingerprint(path, parameters))
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        with self.account.lock:
            try:
                answer = self._carried_out(operation, fault)
            except ApiError as error:
                answer = (error.status, error.body)
            if key is not None:
                self._saved[key].answer = answer
            self.account.save()
        return (*answer, False)

    def _earlier(self, key: str | None, path: str, parameters: Object) -> tuple[int, Object] | None:
        """What this key was answered before. Raises ApiError where it is under way or was used for something else."""
        saved = self._saved.get(key) if key is not None else None
        if saved is None:
            return None
        if saved.fingerprint != _fingerprint(path, parameters):
            raise ApiError(400, "idempotency_error", "Keys can only be used with the same parameters they were first.")
        if saved.answer is None:
            raise ApiError(
                409, "idempotency_error", "Another request with this key is under way.", code="idempotency_key_in_use"
            )
        return saved.answer

    def forget_keys(self) -> None:
        """What happens to idempotency keys after a day."""
        self._saved.clear()

    def _carried_out(self, operation: Callable[[], Object], fault: Fault | None) -> tuple[int, Object]:
        failure = {"error": {"type": "api_error", "message": "An unknown error occurred."}}
        if fault is not None and fault.kind == "error":
            return 500, failure
        body = json.loads(json.dumps(operation()))
        return (500, failure) if fault is not None and fault.kind == "error_after" else (200, body)

    def _fault(self, path: str) -> Fault | None:
        with self.account.lock:
            for fault in self.faults:
                if fault.times > 0 and path.endswith(fault.path):
                    fault.times -= 1
                    return fault
        return None

    def _require_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key.startswith("sk_test_"):
            raise invalid("Invalid API Key provided.", status=401)

    def _operation(self, request: Request, path: str, parameters: Object) -> Callable[[], Object]:
        """What the request asks for, its parameters checked against Stripe's own types. Raises ApiError."""
        account = self.account
        origin = f"{request.url.scheme}://{request.url.netloc}"
        account.table("keys")["base_url"] = origin
        posts: dict[str, Callable[[], Object]] = {
            "customers": lambda: account.create_customer(parameters),
            "checkout/sessions": lambda: account.create_session(parameters, origin),
            "payment_intents": lambda: account.create_payment_intent(parameters),
            "refunds": lambda: account.create_refund(parameters),
        }
        one = re.fullmatch(r"(customers|checkout/sessions|payment_intents)/([A-Za-z0-9_]+)(/expire)?", path)
        if request.method == "POST" and path in posts:
            pattern, operation = path, posts[path]
        elif request.method == "POST" and one is not None and one[3]:
            pattern, operation = "checkout/sessions/*/expire", lambda: account.expire_session(one[2])
        elif request.method == "GET" and path == "balance":
            pattern, operation = path, account.balance
        elif request.method == "GET" and path in LISTS:
            pattern, operation = path, lambda: self._list(path, parameters)
        elif request.method == "GET" and one is not None and not one[3]:
            pattern, operation = f"{one[1]}/*", lambda: account.get(one[1].rpartition("/")[2], one[2])
        else:
            raise invalid(f"Unrecognized request URL ({request.method}: /v1/{path}).", status=404)
        fault = fault_in(request.method, pattern, parameters)
        if fault is not None:
            self.violations.append(f"{request.method} {path}: {fault}")
            raise invalid(f"Received unknown or unusable parameter: {fault}", code="parameter_unknown")
        return operation

    def _list(self, kind: str, parameters: Object) -> Object:
        """A page of a list, newest first, with Stripe's filters that we use."""
        limit = int(parameters.get("limit", PAGE_DEFAULT))
        if not 1 <= limit <= PAGE_MAX:
            raise invalid("This value must be between 1 and 100.", param="limit")
        since = int(parameters.get("created", {}).get("gte", 0))
        wanted = {name: parameters[name] for name in ("customer", "payment_intent", "charge") if name in parameters}
        found = [
            item
            for item in reversed(self.account.table(kind).values())
            if item["created"] >= since and all(item.get(name) == value for name, value in wanted.items())
        ]
        after = parameters.get("starting_after")
        if after is not None:
            found = found[[item["id"] for item in found].index(after) + 1 :]
        shown = found[:limit]
        if "data.source" in parameters.get("expand", []):
            shown = [item | {"source": self._source(item["source"])} if item["source"] else item for item in shown]
        return objects.page(f"/v1/{kind}", shown, len(found) > limit)

    def _source(self, object_id: str) -> Any:
        for kind in ("charges", "refunds", "disputes"):
            if object_id in self.account.table(kind):
                return self.account.get(kind, object_id)
        return {"id": object_id, "object": "payout"}

    def _knobs(self) -> list[Route]:
        """What people may do to the demo's payments: dispute, decide, lose and repeat webhooks."""

        async def dispute(request: Request) -> Response:
            with self.account.lock:
                intent = self.account.get("payment_intents", request.path_params["intent"])
                return JSONResponse(self.account.open_dispute(intent["latest_charge"]))

        async def close(request: Request) -> Response:
            with self.account.lock:
                won = request.query_params.get("won") == "true"
                return JSONResponse(self.account.close_dispute(request.path_params["dispute"], won=won))

        async def deliver(request: Request) -> Response:
            """Repeat every event so far, `copies` times each, in the wrong order."""
            with self.account.lock:
                self.webhooks.copies = int(request.query_params.get("copies", "1"))
                for event in reversed(self.events):
                    self.webhooks.notify(event)
                self.webhooks.copies = 1
            return JSONResponse({"events": len(self.events)})

        def guarded(handle: Callable[[Request], Any]) -> Callable[[Request], Any]:
            async def answer(request: Request) -> Response:
                try:
                    response: Response = await handle(request)
                except ApiError as error:
                    return JSONResponse(error.body, status_code=error.status)
                self.account.save()
                return response

            return answer

        return [
            Route("/test/payment_intents/{intent}/dispute", guarded(dispute), methods=["POST"]),
            Route("/test/disputes/{dispute}/close", guarded(close), methods=["POST"]),
            Route("/test/webhooks/repeat", guarded(deliver), methods=["POST"]),
        ]


def _fingerprint(path: str, parameters: Object) -> str:
    return hashlib.sha256(json.dumps([path, parameters], sort_keys=True).encode()).hexdigest()


def local_address(url: str) -> tuple[str, int]:
    """Host and port of an address on this machine. Raises ValueError for any other: test money stays at home."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1") or parts.port is None:
        raise ValueError(f"{url} is not an address of this machine with a port")
    return parts.hostname, parts.port
