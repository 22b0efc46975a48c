"""The operator's and the customer's commands, as a person and as a script see them."""

import io
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from gateway.settings import CHECKOUT
from tests.gateway.cli.conftest import Machine

PICTURE = str(CHECKOUT / "inference" / "pool" / "tiny" / "pictures" / "shapes.png")


@pytest.fixture(scope="module")
def organization(machine: Machine) -> str:
    found: str = machine.run("organizations", "create", "Acme", "--json").document["id"]
    return found


def test_from_a_new_organization_to_a_paid_picture(machine: Machine, tmp_path: Path) -> None:
    owner = machine.run("organizations", "create", "Paying", "--json").document["id"]
    key = machine.run("keys", "create", "--organization", owner, "--json").document["key"]
    assert machine.run("wallet", "show", "--organization", owner, "--json").document == {
        "balance_micros": 0,
        "held_micros": 0,
        "available_micros": 0,
    }
    refused = machine.run("segment", PICTURE, "--prompt", "red circle", "--api-key", key)
    assert refused.status == 1
    assert "req_" in refused.err
    credited = machine.run("wallet", "credit", "--organization", owner, "--usd", "5", "--reason", "trial", "--json")
    assert credited.document == {"balance_micros": 5_000_000, "held_micros": 0, "available_micros": 5_000_000}
    out = tmp_path / "mask.png"
    done = machine.run("segment", PICTURE, "--prompt", "red circle", "--out", str(out), "--api-key", key)
    assert done.status == 0, done.err
    assert "cost $0.005000, balance $4.995000" in done.out
    with Image.open(io.BytesIO(out.read_bytes())) as mask:
        assert mask.format == "PNG"


def test_segment_in_json_takes_clicks_and_boxes(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "cut.webp"
    arguments = ("--point", "420,450", "--point", "10,10,0", "--box", "320,350,530,560", "--style", "cutout")
    done = machine.run("segment", PICTURE, *arguments, "--out", str(out), "--json")
    assert done.document["files"] == [str(out)]
    assert done.document["cost_usd"] == "0.005000"
    with Image.open(out) as picture:
        assert picture.format == "WEBP"


def test_keys_are_limited_listed_rotated_and_revoked(machine: Machine, organization: str) -> None:
    arguments = ("--name", "app", "--requests-per-minute", "2", "--model", "fal-ai/sam-3/image", "--spend-cap-usd", "1")
    made = machine.run("keys", "create", "--organization", organization, *arguments, "--json").document
    assert made["requests_per_minute"] == 2
    assert made["allowed_models"] == ["meta/sam-3-image"]
    assert made["spend_cap_micros"] == 1_000_000
    listed = machine.run("keys", "list", "--organization", organization)
    assert made["id"] in listed.out
    assert made["key"] not in listed.out
    fresh = machine.run("keys", "rotate", made["id"], "--json").document
    assert fresh["key"] != made["key"]
    assert fresh["requests_per_minute"] == 2
    assert machine.run("keys", "revoke", fresh["id"], "--json").document["status"] == "revoked"
    for key in (made["key"], fresh["key"]):
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{machine.demo['base_url']}/v1/models", headers=headers).status_code == 401


def test_another_organization_s_key_is_not_found(machine: Machine, organization: str) -> None:
    made = machine.run("keys", "create", "--organization", organization, "--json").document
    ended = machine.run("keys", "revoke", made["id"], "--organization", machine.demo["organization_id"])
    assert ended.status == 1
    assert "no such API key" in ended.err


def test_a_credit_s_reference_counts_once(machine: Machine, organization: str) -> None:
    arguments = ("--usd", "2", "--reason", "again", "--reference", "ticket-7", "--json")
    first = machine.run("wallet", "credit", "--organization", organization, *arguments).document
    assert machine.run("wallet", "credit", "--organization", organization, *arguments).document == first


def test_people_read_tables_and_dollars(machine: Machine, organization: str) -> None:
    assert "Acme" in machine.run("organizations", "list").out
    assert "$" in machine.run("wallet", "show", "--organization", organization).out
    assert "meta/sam-3-1-image" in machine.run("models").out
    prices = {model["id"]: model["unit_price_micros"] for model in machine.run("models", "--json").document}
    assert prices == {"meta/sam-3-image": 5_000, "meta/sam-3-image-rle": 5_000, "meta/sam-3-1-image": 10_000}


def test_doctor_finds_a_running_gateway_well(machine: Machine) -> None:
    done = machine.run("doctor", "--json")
    assert done.status == 0
    checks = {check["check"]: check["verdict"] for check in done.document["checks"]}
    assert checks["gateway"] == checks["database"] == checks["migrations"] == checks["pool"] == "ok"
    assert "failed" not in checks.values()


def test_doctor_says_what_is_wrong(stopped: Machine) -> None:
    assert stopped.run("doctor").status == 0
    assert not stopped.data_dir.exists()
    for setting, value, check in (
        ("GATEWAY_PORT", "99999", "settings"),
        ("GATEWAY_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none", "database"),
        ("GATEWAY_REDIS_URL", "redis://127.0.0.1:1", "redis"),
        ("GATEWAY_POOL_URLS", "http://127.0.0.1:1", "pool"),
    ):
        ended = stopped.run("doctor", "--json", **{setting: value})
        assert ended.status == 1
        assert check in [found["check"] for found in ended.document["checks"] if found["verdict"] == "failed"]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["frobnicate"], 2, "No such command"),
        (["keys", "create"], 2, "--organization"),
        (["wallet", "show", "--organization", "acme"], 2, "org_"),
        (["wallet", "show", "--organization", "org_" + "0" * 32], 1, "wallet"),
        (["wallet", "credit", "--organization", "{org}", "--usd", "a lot", "--reason", "x"], 1, "dollars"),
        (["wallet", "credit", "--organization", "{org}", "--usd", "-9", "--reason", "x"], 1, "available"),
        (["keys", "create", "--organization", "{org}", "--model", "gpt-5"], 2, "gpt-5"),
        (["keys", "revoke", "key_" + "0" * 32], 1, "no such API key"),
        (["segment", "nowhere.png", "--prompt", "x"], 2, "nowhere.png"),
        (["segment", PICTURE], 2, "--prompt"),
        (["segment", PICTURE, "--point", "1;2"], 2, "--point"),
        (["segment", PICTURE, "--prompt", "x", "--out", "mask.bmp"], 2, "--out"),
        (["segment", PICTURE, "--prompt", "x", "--model", "gpt-5"], 1, "gpt-5"),
        (["segment", PICTURE, "--box", "9,9,1,1"], 1, "x_max"),
        (["segment", PICTURE, "--prompt", "x", "--api-key", "sk-aig-typo"], 1, "key"),
        (["segment", PICTURE, "--prompt", "x", "--base-url", "http://127.0.0.1:1"], 1, "cannot be reached"),
    ],
)
def test_what_goes_wrong_is_one_line(
    machine: Machine, organization: str, arguments: list[str], status: int, told: str
) -> None:
    ended = machine.run(*(argument.replace("{org}", organization) for argument in arguments))
    assert (ended.status, ended.out) == (status, "")
    assert len(ended.err.splitlines()) == 1
    assert told in ended.err


def test_without_a_running_gateway_it_is_said_how_to_start_one(stopped: Machine) -> None:
    for arguments in (("organizations", "list"), ("segment", PICTURE, "--prompt", "x")):
        ended = stopped.run(*arguments)
        assert ended.status == 1
        assert "deploy/run" in ended.err
        assert len(ended.err.splitlines()) == 1
    assert not stopped.data_dir.exists()


def test_help_needs_neither_database_nor_http(machine: Machine) -> None:
    assert "organizations" in machine.run("--help").out
    script = (
        "import sys; from gateway.cli import main; main(['--help']); "
        "assert not {'sqlalchemy', 'fastapi', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, env=machine.environment)
