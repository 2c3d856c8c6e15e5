"""What the attacks on real nodes share with the live tests: the cluster, and logs in reports."""

from __future__ import annotations

from tests.live.conftest import cluster, pytest_runtest_makereport

__all__ = ["cluster", "pytest_runtest_makereport"]
