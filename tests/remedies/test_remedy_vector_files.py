"""A remedy applied to files of vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from comparison_material import material, unit

from bias_train.errors import RunError
from bias_train.people.vectors import load_people, save_people
from bias_train.remedies.material import calibration_of
from bias_train.remedies.vector_files import apply_to_file
from models.remedies import AttributeSubspace, Equalisation

WHOLE = material()
DATA = calibration_of(WHOLE, np.array([0.5, 0.5]))
BOTH = AttributeSubspace().fit(DATA)
QUERIES = Equalisation(20).fit(DATA)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("side", ["image", "text"])
def test_arrays_a_piece_at_a_time(tmp_path: Path, dtype: type, side: str) -> None:
    rows = 2.5 * WHOLE.people.image.numpy()[:90]
    np.save(tmp_path / "in.npy", rows.astype(dtype))
    count = apply_to_file(BOTH, tmp_path / "in.npy", tmp_path / "out.npy", side=side, chunk=7)  # type: ignore[arg-type]
    assert count == 90
    out = np.load(tmp_path / "out.npy")
    assert out.dtype == dtype
    expected = BOTH.image(unit(rows)).numpy()
    np.testing.assert_allclose(out, expected, atol=2e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_files_of_both_sides_keep_the_other(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"in{suffix}"
    save_people(source, WHOLE.people, WHOLE.words)
    for side in ("image", "text"):
        out = tmp_path / f"{side}{suffix}"
        count = apply_to_file(BOTH, source, out, side=side, chunk=33)  # type: ignore[arg-type]
        people, words = load_people(out)
        assert words is not None
        assert count == len(people if side == "image" else words)
        image, text = WHOLE.people.image, WHOLE.words.text
        torch.testing.assert_close(people.image, BOTH.image(image) if side == "image" else image, rtol=0, atol=1e-6)
        torch.testing.assert_close(words.text, BOTH.text(text) if side == "text" else text, rtol=0, atol=1e-6)
        assert people.key == WHOLE.people.key


def test_what_cannot_be_mapped_is_named(tmp_path: Path) -> None:
    rows = WHOLE.people.image.numpy()
    np.save(tmp_path / "in.npy", rows)
    np.save(tmp_path / "narrow.npy", rows[:, :4])
    np.save(tmp_path / "zero.npy", np.where(np.arange(len(rows))[:, None] == 41, 0, rows))
    out = tmp_path / "out.npy"
    for name, fitted, words in (
        ("narrow.npy", BOTH, "for width 16"),
        ("zero.npy", BOTH, "row 41"),
        ("in.npy", QUERIES, "leaves this side as it is"),
        ("absent.npy", BOTH, "no such file"),
    ):
        with pytest.raises(RunError, match=words):
            apply_to_file(fitted, tmp_path / name, out, chunk=10)
    assert not out.exists()
    assert apply_to_file(QUERIES, tmp_path / "in.npy", out, side="text") == len(rows)
