"""`kowalski doctor`: each check says what is wrong and how to mend it, and changes nothing."""

from __future__ import annotations

import json
import resource
import socket
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kowalski_executors import sandbox_probe
from kowalski_gateway.cli import checks
from kowalski_gateway.cli.main import run
from kowalski_protocol.errors import Problem
from tests.ports.api_world import served


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("KOWALSKI_HOME", str(folder))
    return folder


def test_a_device_before_its_first_start(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "sandbox", lambda: checks.Finding(True, "works"))
    monkeypatch.setattr(checks, "discovery", lambda: checks.Finding(True, "works"))
    address = free_address()
    assert run(["doctor", "--api", address, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    found = {check["name"]: check for check in report["checks"]}
    assert len(found) == 10
    assert found["home folder"]["ok"] is True
    assert found["node"] == {
        "name": "node",
        "ok": None,
        "message": f"none runs; http://{address} is free",
        "mend": "kowalski-node",
    }
    assert not home.exists()
    assert run(["doctor", "--api", address]) == 0
    shown = capsys.readouterr().out
    assert "✓ Python" in shown
    assert "All is well." in shown


def test_a_failed_check_exits_with_1_and_shows_its_mend(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "sandbox", lambda: checks.Finding(False, "Broken.", "mend it"))
    assert run(["doctor", "--api", free_address()]) == 1
    shown = capsys.readouterr().out
    assert "✗ sandbox" in shown
    assert "mend: mend it" in shown
    assert "of 10 checks failed." in shown


def test_a_running_node_answers_and_its_clock_is_compared(home: Path) -> None:
    with served() as api:
        results = {one.name: one for one in checks.run_checks(api.url, None)}
    assert results["node"].ok is True
    assert results["clock"].ok is True


def test_a_node_that_asks_for_a_token_is_told() -> None:
    with served(token="right") as api:
        problem = checks._cluster(api.url, None)
        assert isinstance(problem, Problem)
        finding = checks.node(api.url, problem)
        assert finding.ok is False
        assert "token" in finding.sentence


def test_a_port_that_another_program_holds_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        finding = checks.node(url, Problem("node_unreachable", "Nobody."))
    assert finding.ok is False
    assert finding.mend is not None


def test_a_home_that_others_may_write_is_told(home: Path) -> None:
    home.mkdir(mode=0o700)
    assert checks.home_folder(home).ok is True
    home.chmod(0o777)
    finding = checks.home_folder(home)
    assert (finding.ok, finding.mend) == (False, f"chmod 700 {home}")


def test_a_home_that_is_a_file_is_told(home: Path) -> None:
    home.touch()
    assert checks.home_folder(home).ok is False


def test_a_key_that_others_may_read_is_told(home: Path) -> None:
    home.mkdir()
    key = home / "identity.key"
    assert checks.key_file(key).ok is None
    key.touch(mode=0o600)
    assert checks.key_file(key).ok is True
    key.chmod(0o644)
    finding = checks.key_file(key)
    assert (finding.ok, finding.mend) == (False, f"chmod 600 {key}")


def test_a_ledger_that_can_not_be_opened_is_told(home: Path) -> None:
    home.mkdir()
    ledger = home / "ledger.db"
    assert checks.ledger(ledger).ok is None
    ledger.write_bytes(b"no ledger at all" * 500)
    finding = checks.ledger(ledger)
    assert finding.ok is False
    assert finding.mend is not None


def test_a_full_disk_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.disk_space(home / "deeper" / "still").ok is not None
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 5_000_000))
    finding = checks.disk_space(home)
    assert finding.ok is False
    assert "4.8 MiB" in finding.sentence


def test_too_few_open_files_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert checks.open_files().ok is False
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, -1))
    assert checks.open_files().ok is True


@pytest.mark.parametrize(
    ("offsets", "ok"), [([], None), ([0.01], True), ([45.0], False), ([-45.0, 0.0, 0.1], True)]
)
def test_a_clock_is_compared_with_the_members_median(offsets: list[float], ok: bool | None) -> None:
    devices: list[dict[str, Any]] = [{"self": True, "alive": True, "clock_offset_s": None}]
    devices += [{"self": False, "alive": True, "clock_offset_s": one} for one in offsets]
    devices.append({"self": False, "alive": False, "clock_offset_s": 1000.0})
    assert checks.clock({"devices": devices}).ok is ok


@pytest.mark.needs_bubblewrap
def test_a_working_sandbox_is_found_by_running_it() -> None:
    finding = checks.sandbox()
    assert finding.ok is True
    assert "python" in finding.sentence


def test_a_missing_sandbox_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_probe.shutil, "which", lambda *_, **__: None)
    finding = checks.sandbox()
    assert finding.ok is False
    assert finding.mend is not None
    assert "bubblewrap" in finding.mend
