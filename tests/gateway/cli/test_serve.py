"""gateway serve: one command, one folder, one set of processes, and nothing left of them."""

import os
import signal
import socket
import stat
import subprocess

import httpx
import psutil
import pytest

from tests.gateway.cli.conftest import Machine, remaining


def answers(machine: Machine, key: str) -> int:
    """The status of the cheapest call with this key."""
    return httpx.get(f"{machine.demo['base_url']}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def test_it_prints_what_a_newcomer_pastes_and_it_works(stopped: Machine) -> None:
    printed = stopped.start()
    demo = stopped.demo
    assert f"{demo['base_url']}/v1" in printed
    assert demo["api_key"] in printed
    assert demo["admin_key"] not in printed
    curl = "curl" + printed.split("\ncurl", 1)[1].split("\n\n", 1)[0]
    answer = subprocess.run(["bash", "-c", curl], check=True, capture_output=True, text=True).stdout
    assert '"data"' in answer
    assert '"error"' not in answer
    snippet = "from openai" + printed.split("\nfrom openai", 1)[1].split("\n\n", 1)[0]
    assert len(snippet.splitlines()) == 6


def test_the_demo_s_secrets_are_its_owner_s_alone(machine: Machine) -> None:
    for name in ("demo.json", "secrets.json", "postgres.password"):
        assert stat.S_IMODE((machine.data_dir / name).stat().st_mode) == 0o600
    assert set(machine.demo) == {"base_url", "api_key", "admin_key", "organization_id"}


def test_a_second_one_on_the_folder_is_refused_and_the_first_goes_on(machine: Machine) -> None:
    before = machine.family()
    second = machine.run("serve", "--demo")
    assert second.status == 1
    assert second.out == ""
    assert machine.demo["base_url"] in second.err
    assert str(before[0].pid) in second.err
    assert answers(machine, machine.demo["api_key"]) == 200


def test_a_port_in_use_is_one_line_and_starts_nothing(stopped: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = stopped.run("serve", GATEWAY_PORT=str(taken.getsockname()[1]))
    assert ended.status == 1
    assert len(ended.err.splitlines()) == 1
    assert "GATEWAY_PORT" in ended.err
    assert not stopped.data_dir.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_in_order(stopped: Machine, number: signal.Signals) -> None:
    stopped.start()
    family = stopped.family()
    assert len(family) > 3
    assert stopped.signal(number) == 0
    assert remaining(family) == []
    assert not (stopped.data_dir / "run").exists()
    assert not (stopped.data_dir / "postgres" / "postmaster.pid").exists()


def test_kill_9_leaves_nothing_and_the_next_start_finds_everything(stopped: Machine) -> None:
    stopped.start()
    demo, family = stopped.demo, stopped.family()
    stopped.signal(signal.SIGKILL)
    assert remaining(family) == []
    stopped.start()
    assert {name: value for name, value in stopped.demo.items() if name != "base_url"} == {
        name: value for name, value in demo.items() if name != "base_url"
    }
    assert answers(stopped, demo["api_key"]) == 200


def test_ctrl_c_in_a_terminal_reaches_only_the_gateway_itself(stopped: Machine) -> None:
    stopped.start()
    own, *others = stopped.family()
    assert {os.getpgid(other.pid) for other in others}.isdisjoint({os.getpgid(own.pid)})


def test_a_demo_key_that_was_revoked_is_replaced_at_the_next_start(stopped: Machine) -> None:
    stopped.start()
    demo = stopped.demo
    (key,) = stopped.run("keys", "list", "--organization", demo["organization_id"], "--json").document
    assert stopped.run("keys", "revoke", key["id"]).status == 0
    stopped.signal(signal.SIGTERM)
    stopped.start()
    assert stopped.demo["organization_id"] == demo["organization_id"]
    assert stopped.demo["api_key"] != demo["api_key"]
    assert answers(stopped, stopped.demo["api_key"]) == 200
    wallet = stopped.run("wallet", "show", "--organization", demo["organization_id"], "--json").document
    assert wallet["balance_micros"] == 5_000_000


def test_damaged_secrets_are_not_replaced(stopped: Machine) -> None:
    stopped.start()
    stopped.signal(signal.SIGTERM)
    (stopped.data_dir / "secrets.json").write_text("{")
    ended = stopped.run("serve")
    assert ended.status == 1
    assert "restore the file" in ended.err
    commands = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(stopped.data_dir) in command]
