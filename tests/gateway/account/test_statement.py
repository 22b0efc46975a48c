"""A customer sees what there is, where it went and what stands behind it, over the API."""

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from billing import wallets
from billing.notices import take_notices
from gateway import chores
from tests.pictures import data_uri, picture
from tests.serving import Customer, RunningGateway


def _get(gateway: RunningGateway, customer: Customer, path: str, **params: Any) -> httpx.Response:
    return httpx.get(
        f"{gateway.base_url}{path}", params=params, headers={"authorization": f"Bearer {customer.key}"}, timeout=20
    )


def _document(gateway: RunningGateway, customer: Customer, path: str, **params: Any) -> Any:
    answer = _get(gateway, customer, path, **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _call(gateway: RunningGateway, customer: Customer) -> None:
    gateway.openai(customer).images.generate(
        model="meta/sam-3-image", prompt="red circle", extra_body={"image": data_uri(picture())}
    )


def _grant(gateway: RunningGateway, customer: Customer, micros: int, **more: Any) -> None:
    async def grant() -> None:
        async with gateway.resources.database.pool.acquire() as connection:
            fields = {
                "kind": wallets.CreditKind.PROMOTIONAL,
                "reference": str(uuid4()),
                "reason": "Thanks",
                "actor": "tests",
            }
            await wallets.credit(connection, customer.organization_id, micros, **(fields | more))

    gateway.run(grant())


class TestCredits:
    def test_shows_what_is_there_and_what_of_it_is_promotional(self, gateway: RunningGateway) -> None:
        customer = gateway.customer(usd=0)
        _grant(gateway, customer, 1_000_000, kind=wallets.CreditKind.ADJUSTMENT)
        ending = datetime.now(UTC) + timedelta(days=30)
        _grant(gateway, customer, 8_000, expires_at=ending)
        _call(gateway, customer)
        found = _document(gateway, customer, "/v1/credits")
        assert (found["balance_micros"], found["held_micros"], found["available_usd"]) == (1_003_000, 0, "1.003000")
        assert found["promotional"]["remaining_micros"] == 3_000
        [grant] = found["promotional"]["grants"]
        assert (grant["granted_micros"], grant["remaining_usd"]) == (8_000, "0.003000")
        assert datetime.fromisoformat(grant["expires_at"]) == ending
        assert found["auto_top_up"] is None

    def test_needs_the_scope(self, gateway: RunningGateway) -> None:
        customer = gateway.customer(scopes=["segment"])
        for path in ("/v1/credits", "/v1/statement", "/v1/notices"):
            answer = _get(gateway, customer, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_missing")


class TestStatement:
    def test_each_charge_names_its_prediction_and_the_lines_add_up(self, gateway: RunningGateway) -> None:
        customer = gateway.customer(usd=1)
        for _ in range(3):
            _call(gateway, customer)
        lines: list[Any] = []
        page: Any = {"next_cursor": None, "has_more": True}
        while page["has_more"]:
            cursor = {} if page["next_cursor"] is None else {"cursor": page["next_cursor"]}
            page = _document(gateway, customer, "/v1/statement", limit=2, **cursor)
            lines += page["data"]
        predictions = [f"pred_{each['id'].hex}" for each in gateway.predictions(customer)]
        assert [line["prediction_id"] for line in lines] == [*reversed(predictions), None]
        assert lines[0]["hold_id"] == predictions[-1].replace("pred_", "hold_")
        assert lines[0]["key_id"] == f"key_{customer.key_id.hex}"
        assert [line["balance_micros"] for line in lines] == [985_000, 990_000, 995_000, 1_000_000]
        assert sum(line["amount_micros"] for line in lines) == gateway.balance(customer).balance_micros

    def test_filters(self, gateway: RunningGateway) -> None:
        customer = gateway.customer(usd=1)
        _call(gateway, customer)
        now = datetime.now(UTC)

        def kinds(**params: Any) -> list[str]:
            return [line["kind"] for line in _document(gateway, customer, "/v1/statement", **params)["data"]]

        assert kinds(kind=["usage"]) == ["usage"]
        assert kinds(kind=["usage", "promotional"]) == ["usage", "promotional"]
        assert kinds(since=(now + timedelta(hours=1)).isoformat()) == []
        assert kinds(until=(now - timedelta(hours=1)).replace(tzinfo=None).isoformat()) == []
        for wrong in ({"kind": "A b"}, {"since": "soon"}, {"cursor": "x"}, {"limit": 0}, {"format": "xml"}):
            answer = _get(gateway, customer, "/v1/statement", **wrong)
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")

    def test_another_organization_sees_nothing_of_it(self, gateway: RunningGateway) -> None:
        _call(gateway, gateway.customer(usd=1))
        other = gateway.customer(usd=0)
        assert _document(gateway, other, "/v1/statement")["data"] == []

    def test_csv_is_the_same_lines_and_runs_nothing(self, gateway: RunningGateway) -> None:
        customer = gateway.customer(usd=1)
        _call(gateway, customer)
        _grant(gateway, customer, 5, reason='=HYPERLINK("http://x","y"), "quoted"\nnext')
        answer = _get(gateway, customer, "/v1/statement", format="csv", limit=1)
        assert answer.headers["content-type"].startswith("text/csv")
        assert "attachment" in answer.headers["content-disposition"]
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert [row["amount_usd"] for row in rows] == ["0.000005", "-0.005000", "1.000000"]
        assert rows[0]["reason"].startswith("'=HYPERLINK")
        assert rows[1]["prediction_id"].startswith("pred_")

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
    def test_no_cell_starts_a_formula(self, gateway: RunningGateway, start: str) -> None:
        customer = gateway.customer(usd=0)
        _grant(gateway, customer, 5, reason=f"{start}1+1")
        [row] = csv.DictReader(io.StringIO(_get(gateway, customer, "/v1/statement", format="csv").text, newline=""))
        assert row["reason"] == f"'{start}1+1"


class TestNotices:
    def test_a_low_balance_is_told_once(self, gateway: RunningGateway) -> None:
        customer = gateway.customer(usd=2)
        url = f"{gateway.base_url}/v1/notices/low-balance"
        headers = {"authorization": f"Bearer {customer.key}"}
        answer = httpx.put(url, headers=headers, json={"threshold_usd": "1.995"})
        assert (answer.status_code, answer.json()["threshold_micros"]) == (200, 1_995_000)
        _call(gateway, customer)
        assert _document(gateway, customer, "/v1/notices")["data"] == []
        _call(gateway, customer)
        _call(gateway, customer)
        [notice] = _document(gateway, customer, "/v1/notices")["data"]
        assert (notice["kind"], notice["details"]["threshold_micros"]) == ("low_balance", 1_995_000)
        assert _document(gateway, customer, "/v1/notices", cursor=notice["id"])["data"] == []
        assert _document(gateway, customer, "/v1/notices", limit=1)["next_cursor"] == notice["id"]
        for wrong in ({"threshold_usd": "-1"}, {"threshold_usd": "lots"}, {}, {"threshold_usd": "1", "more": 1}):
            assert httpx.put(url, headers=headers, json=wrong).status_code == 400

    def test_the_gateway_delivers_and_ends_credit_by_itself(self, own_gateway: RunningGateway) -> None:
        customer = own_gateway.customer(usd=1)
        _grant(own_gateway, customer, 700, expires_at=datetime.now(UTC) - timedelta(seconds=1))
        database = own_gateway.resources.database
        own_gateway.run(chores.end_promotional_credit(database))
        own_gateway.run(chores.snapshot_balances(database))
        assert own_gateway.balance(customer).balance_micros == 1_000_000
        [notice] = _document(own_gateway, customer, "/v1/notices")["data"]
        assert (notice["kind"], notice["details"]["amount_micros"]) == ("credit_expired", 700)
        own_gateway.run(chores.deliver_notices(database))

        async def left() -> int:
            async with database.pool.acquire() as connection, connection.transaction():
                return len(await take_notices(connection))

        assert own_gateway.run(asyncio.wait_for(left(), 10)) == 0
        own_gateway.require_sound_books()
