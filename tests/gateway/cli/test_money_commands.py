"""The operator proves, corrects and reports money from the command line, beside a gateway that serves."""

import asyncio
import csv
import io
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from gateway.embedded.postgres import embedded_dsn
from gateway.settings import CHECKOUT
from tests.gateway.cli.conftest import Machine

PICTURE = str(CHECKOUT / "inference" / "pool" / "tiny" / "pictures" / "shapes.png")


@pytest.fixture(scope="module")
def customer(machine: Machine) -> str:
    """An organization that has been granted $2, has spent one cent's half and was corrected."""
    owner: str = machine.run("organizations", "create", "Acme", "--json").document["id"]
    key = machine.run("keys", "create", "--organization", owner, "--json").document["key"]
    whose = ("--organization", owner)
    granted = machine.run("wallet", "grant", *whose, "--usd", "2", "--reason", "=hello", "--expires-in-days", "30")
    assert granted.status == 0, granted.err
    assert machine.run("segment", PICTURE, "--prompt", "red circle", "--api-key", key).status == 0
    taken = machine.run("wallet", "adjust", *whose, "--usd", "-0.5", "--reason", "mistake", "--json")
    assert taken.document["balance_micros"] == 1_495_000
    return owner


def execute(machine: Machine, statement: str, *arguments: Any) -> None:
    """Change the embedded database behind the gateway's back."""

    async def on_database() -> None:
        connection = await asyncpg.connect(embedded_dsn(machine.data_dir))
        try:
            await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    asyncio.run(on_database())


def test_statement_has_every_entry(machine: Machine, customer: str) -> None:
    found = machine.run("wallet", "statement", "--organization", customer, "--json").document
    assert [(line["kind"], line["amount_micros"], line["balance_micros"]) for line in found["lines"]] == [
        ("adjustment", -500_000, 1_495_000),
        ("usage", -5_000, 1_995_000),
        ("promotional", 2_000_000, 2_000_000),
    ]
    assert [line["reason"] for line in found["lines"]] == ["mistake", None, "=hello"]
    page = machine.run("wallet", "statement", "--organization", customer, "--limit", "2", "--json").document
    rest = machine.run(
        "wallet", "statement", "--organization", customer, "--before", str(page["next_before"]), "--kind", "promotional"
    )
    assert "$2.00" in rest.out
    assert "usage" not in rest.out
    assert "--before" in machine.run("wallet", "statement", "--organization", customer, "--limit", "1").out


def test_amounts_that_cannot_be(machine: Machine, customer: str) -> None:
    for arguments in (
        ("grant", "--usd", "-1"),
        ("adjust", "--usd", "-100"),
        ("adjust", "--usd", "nothing"),
        ("grant", "--usd", "1", "--expires-in-days", "-3"),
    ):
        ended = machine.run("wallet", *arguments, "--organization", customer, "--reason", "test")
        assert ended.status != 0
        assert ended.err.startswith("error: ")


def test_reports_of_the_month(machine: Machine, customer: str) -> None:
    revenue = machine.run("reports", "revenue", "--json").document
    assert {"organization": customer, "charges": 1, "usage_micros": 5_000, "breakage_micros": 0} in revenue
    assert "$0.005" in machine.run("reports", "revenue").out
    rows = list(csv.DictReader(io.StringIO(machine.run("reports", "fees", "--csv").out)))
    assert rows[-1] == {"fees": "net", "amount_usd": "0.000000"}
    moved = machine.run("reports", "movements", "--json").document
    assert ("usage", "wallet", "usage_revenue") in [(x["kind"], x["debit"], x["credit"]) for x in moved]
    assert "Nothing" in machine.run("reports", "revenue", "--month", "2020-01").out
    assert machine.run("reports", "revenue", "--month", "2020-01", "--csv").out == ""
    assert machine.run("reports", "revenue", "--month", "May").status == 2


def test_disputes_of_nobody(machine: Machine) -> None:
    assert machine.run("disputes", "list", "--json").document == []
    assert machine.run("disputes", "list", "--open").status == 0


def test_reconcile_names_what_is_wrong_and_only_then_fails(machine: Machine, customer: str) -> None:
    for arguments in ((), ("--recent",)):
        sound = machine.run("reconcile", *arguments)
        assert (sound.status, "All is well" in sound.out) == (0, True)
    assert machine.run("reconcile", "--json").document == {"sound": True, "differences": []}
    change = "UPDATE billing.wallets SET balance_micros = balance_micros + $2 WHERE owner_id = $1"
    owner = UUID(hex=customer.removeprefix("org_"))
    execute(machine, change, owner, 7)
    try:
        found = machine.run("reconcile", "--json")
        named = machine.run("reconcile")
    finally:
        execute(machine, change, owner, -7)
    assert (found.status, found.document["sound"]) == (1, False)
    wallet = next(x for x in found.document["differences"] if x["check"] == "wallet balance = sum of its entries")
    assert (str(owner) in wallet["subject"], wallet["found"] - wallet["expected"]) == (True, 7)
    assert named.status == 1
    assert str(owner) in named.out
    assert machine.run("reconcile").status == 0
