"""Fixtures of the reports' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_runs import make_run


@pytest.fixture
def run_maker(tmp_path: Path) -> Callable[..., Path]:
    """Make a run folder below the test's own folder."""
    return lambda name, **options: make_run(tmp_path / name, **options)


@pytest.fixture(scope="session")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep: four shares, two losses, two seeds."""
    root = tmp_path_factory.mktemp("sweep") / "cifake_mixing"
    for share in (0.0, 0.2, 0.5, 0.8):
        for loss in ("none", "hinge"):
            for seed in (0, 1):
                make_run(root / f"share={share:g}_loss={loss}_seed={seed}", share=share, loss=loss, seed=seed)
    return root
