"""What the tests of the command line share: an API that answers by a script, and commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kowalski_gateway.cli.main import run
from tests.ports.api_world import Served, served
from tests.units.cli_runner import Ended, Kowalski


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with served() as one:
        monkeypatch.setenv("KOWALSKI_API", one.url)
        yield one


@pytest.fixture
def kowalski(capsys: pytest.CaptureFixture[str]) -> Kowalski:
    def call(*arguments: str) -> Ended:
        capsys.readouterr()
        code = run(arguments)
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return call
