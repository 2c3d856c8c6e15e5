"""What the attacks share: the cluster and logs of real nodes, and the sandbox, both ways."""

from __future__ import annotations

import pytest

from kowalski_executors.code_executor import CodeExecutor
from tests.live.conftest import cluster, languages, pytest_runtest_makereport
from tests.ports.executors import SANDBOXES

__all__ = ["cluster", "languages", "pytest_runtest_makereport"]


@pytest.fixture(scope="module", params=list(SANDBOXES))
def executor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> CodeExecutor:
    """The code executor with its sandbox; it probes itself at its first run."""
    work_root = tmp_path_factory.mktemp("home") / "work"
    return CodeExecutor(work_root=work_root, **SANDBOXES[request.param])
