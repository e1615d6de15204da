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
