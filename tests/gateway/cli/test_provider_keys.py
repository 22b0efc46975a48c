"""Provider keys and deployments from the command line, each command a program of its own beside the gateway."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fakes.fal_upstream import FalUpstream
from tests.fakes.upstream import GOOD_KEY
from tests.gateway.cli.conftest import COMMAND_TIMEOUT_SECONDS, Ended, Machine
from tests.pictures import data_uri, picture
from tests.running import RunningProgram
from tests.serving import wait_until


@pytest.fixture(scope="module")
def equipped(pool: RunningProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, FalUpstream]]:
    """A gateway with the pool first and fal, on the installation's key, second."""
    upstream = FalUpstream()
    with RunningProgram(upstream.app) as fal:
        settings = {
            "GATEWAY_FAL_URL": fal.base_url,
            "GATEWAY_UPSTREAMS__FAL__KIND": "fal",
            "GATEWAY_UPSTREAMS__FAL__KEY": GOOD_KEY,
            "GATEWAY_UPSTREAMS__FAL__MODELS": '["meta/sam-3-image"]',
            "GATEWAY_UPSTREAMS__FAL__CONNECT_TIMEOUT_SECONDS": "2",
        }
        machine = Machine(tmp_path_factory.mktemp("equipped") / "data", pool.base_url, settings)
        machine.start()
        yield machine, upstream
        machine.signal(15)


def with_input(machine: Machine, text: str, *arguments: str) -> Ended:
    """One command that reads `text`."""
    ended = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        input=text,
        env=machine.environment,
        timeout=COMMAND_TIMEOUT_SECONDS,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def call(machine: Machine, key: str) -> Any:
    """The usage of one segmentation, or its error."""
    answer = httpx.post(
        f"{machine.demo['base_url']}/v1/images/generations",
        headers={"authorization": f"Bearer {key}"},
        json={"model": "meta/sam-3-image", "prompt": "red circle", "image": data_uri(picture())},
        timeout=30,
    )
    return answer.json().get("usage") or answer.json()["error"]


def test_attach_use_rewrap_and_remove(equipped: tuple[Machine, FalUpstream]) -> None:
    machine, _ = equipped
    owner = machine.run("organizations", "create", "Own key", "--json").document["id"]
    key = machine.run("keys", "create", "--organization", owner, "--json").document["key"]
    add = ("credentials", "add", "--organization", owner, "--provider", "fal")
    refused = with_input(machine, "a-key-that-nobody-knows\n", *add)
    assert (refused.status, "does not accept" in refused.err) == (1, True)
    added = with_input(machine, f"{GOOD_KEY}\n", *add, "--json")
    assert added.document["last4"] == GOOD_KEY[-4:]
    assert GOOD_KEY not in added.out + added.err
    assert call(machine, key)["payer"] == "customer"  # with an empty wallet

    rotated = {"GATEWAY_KEY_ENCRYPTION_KEY": "x" * 40}
    assert machine.run("credentials", "rewrap", **rotated).status == 1  # the old one is not known
    assert machine.run("credentials", "rewrap", "--json").document == {"rewrapped": 0}

    credential = added.document["id"]
    changed = machine.run("credentials", "update", credential, "--may-fall-back", "--position", "7", "--json").document
    assert (changed["may_fall_back"], changed["position"]) == (True, 7)
    assert credential in machine.run("credentials", "list", "--organization", owner).out
    assert machine.run("credentials", "remove", credential).status == 0
    wait_until(lambda: call(machine, key).get("code") == "insufficient_credits")
    assert machine.run("credentials", "list", "--organization", owner, "--json").document == []


def test_deployments_are_listed_and_switched_without_a_restart(equipped: tuple[Machine, FalUpstream]) -> None:
    machine, fal = equipped
    key = machine.demo["api_key"]
    listed = machine.run("deployments", "list", "--json").document
    assert [(each["name"], each["enabled"], each["breaker"]) for each in listed] == [
        ("pool", True, "closed"),
        ("fal", True, "closed"),
    ]
    assert GOOD_KEY not in str(listed)
    assert listed[1]["models"] == ["meta/sam-3-image"]
    asked = len(fal.asked)
    assert call(machine, key)["payer"] == "wallet"
    assert len(fal.asked) == asked
    assert machine.run("deployments", "disable", "pool", "--reason", "maintenance").status == 0

    def is_served_by_fal() -> bool:
        call(machine, key)
        return len(fal.asked) > asked

    wait_until(is_served_by_fal)
    assert machine.run("deployments", "disable", "fal").status == 0
    wait_until(lambda: call(machine, key).get("code") == "model_unavailable")
    for name in ("pool", "fal"):
        assert machine.run("deployments", "enable", name).status == 0
    wait_until(lambda: call(machine, key).get("payer") == "wallet")
    assert machine.run("deployments", "disable", "unknown").status == 2
