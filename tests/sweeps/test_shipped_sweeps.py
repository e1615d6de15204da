"""The sweep files that come with the project name files, axes and choices that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bias_train.sweeps.spec import load_sweep

SWEEPS = Path(__file__).resolve().parents[2] / "configs" / "sweep"


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_loads(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.name == path.stem
    assert sweep.axes


def test_the_methods_hold_every_shipped_loss_that_needs_no_one_to_one_twins() -> None:
    method = load_sweep(SWEEPS / "source_methods.yaml").axis("method")
    assert method is not None
    held = {path.name for choice in method.choices for path in choice.configs}
    files = [path for folder in ("loss", "erasure") for path in (SWEEPS.parent / folder).glob("*.yaml")]
    documents = {path.name: yaml.safe_load(path.read_text()) for path in files}
    # Losses on people, on objects and on text stand under names of their own, and are compared elsewhere.
    other = {
        axis: {name for name, document in documents.items() if axis in document.get("model", {}).get("losses", {})}
        for axis in ("social", "object", "text")
    }
    assert all(other.values())
    assert documents.keys() - held - set().union(*other.values()) == {"twin_consistency.yaml"}
