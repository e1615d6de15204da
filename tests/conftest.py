"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures; BIAS_TRAIN_DATA names another one. Skips where it is absent."""
    folder = Path(os.environ.get("BIAS_TRAIN_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real pictures are not at {folder}; set BIAS_TRAIN_DATA to the folder that holds them")
    return folder


_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what was skipped, but for the real pictures, which not everybody has."""
    if report.skipped and not hasattr(report, "wasxfail") and "real pictures" not in str(report.longrepr):
        _skipped.append(f"{report.nodeid}: {report.longrepr}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail CI where a component was missing: a skip there would look like a pass."""
    if os.environ.get("CI") and _skipped and exitstatus == 0:
        print("\nskipped in CI, which must have every component:", *_skipped, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
