"""What the attacks on real nodes share with the live tests: the cluster, and logs in reports."""

from __future__ import annotations

from tests.live.conftest import cluster, languages, pytest_runtest_makereport

__all__ = ["cluster", "languages", "pytest_runtest_makereport"]
