"""An index erased in pieces is the index erased at once, whatever file it lies in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from vectors import biased

from bias_train.embeddings import load_embeddings, save_embeddings
from bias_train.erasure.fitting import ErasureSpec, fit_eraser
from bias_train.erasure.vector_files import erase_file
from bias_train.errors import RunError
from models.erasure import LinearEraser

WHOLE = biased("pair", count=50)
ERASER = fit_eraser(WHOLE, ErasureSpec("projection"))
EXPECTED = ERASER.apply(WHOLE.image).numpy()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_arrays(tmp_path: Path, dtype: type, chunk: int) -> None:
    np.save(tmp_path / "index.npy", WHOLE.image.numpy().astype(dtype))
    assert erase_file(ERASER, tmp_path / "index.npy", tmp_path / "new" / "out.npy", chunk=chunk) == 100
    out = np.load(tmp_path / "new" / "out.npy")
    assert out.dtype == dtype
    np.testing.assert_allclose(out, EXPECTED, atol=1e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embeddings_of_this_project_keep_all_but_the_pictures(tmp_path: Path, suffix: str) -> None:
    save_embeddings(tmp_path / f"e{suffix}", WHOLE)
    assert erase_file(ERASER, tmp_path / f"e{suffix}", tmp_path / f"out{suffix}", chunk=33) == 100
    out = load_embeddings(tmp_path / f"out{suffix}")
    np.testing.assert_allclose(out.image.numpy(), EXPECTED, atol=1e-6)
    assert out.text is not None
    assert WHOLE.text is not None
    assert torch.equal(out.text, WHOLE.text)
    assert (out.image_key, out.query, out.relevance) == (WHOLE.image_key, WHOLE.query, "pair")
    assert np.array_equal(out.image_source, WHOLE.image_source)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"e{suffix}", f"out{suffix}"])


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 24)])
def test_tables_without_labels(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(WHOLE.image.numpy().astype(float).tolist(), type=kind)
    table = pa.table({"id": np.arange(100), "clip": column, "url": [f"u{i}" for i in range(100)]})
    pyarrow.parquet.write_table(table, tmp_path / "index.parquet", row_group_size=30)
    assert erase_file(ERASER, tmp_path / "index.parquet", tmp_path / "out.parquet", name="clip", chunk=16) == 100
    out = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert out.schema.equals(table.schema)
    assert out.drop(["clip"]).equals(table.drop(["clip"]))
    np.testing.assert_allclose(np.array(out["clip"].to_pylist()), EXPECTED, atol=1e-6)


def test_what_cannot_be_erased_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    image = WHOLE.image.numpy()
    files = {"index": image, "narrow": image[:, :5], "column": image[0], "longer": 2 * image, "zero": image * 1}
    files["zero"] = np.where(np.arange(100)[:, None] == 41, 0, image).astype(np.float32)
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "index.npy").read_bytes()[:-60])
    (tmp_path / "text.npy").write_text("text")
    np.savez(tmp_path / "odd.npz", other=image)
    affine = LinearEraser(ERASER.matrix, torch.ones(24, dtype=torch.float64))
    before = sorted(tmp_path.iterdir())
    for name, eraser, words in (
        ("narrow.npy", ERASER, "width 24"),
        ("column.npy", ERASER, "row by row"),
        ("zero.npy", ERASER, "row 41"),
        ("cut.npy", ERASER, "ends within row 99"),
        ("text.npy", ERASER, "cannot be read"),
        ("absent.npy", ERASER, "no such file"),
        ("odd.npz", ERASER, "it holds other"),
        ("longer.npy", affine, "unit length"),
    ):
        with pytest.raises(RunError, match=words):
            erase_file(eraser, tmp_path / name, tmp_path / f"out{Path(name).suffix}")
    with pytest.raises(RunError, match="unit length"):
        erase_file(ERASER, tmp_path / "longer.npy", tmp_path / "out.npy", renormalise=False)
    with pytest.raises(RunError, match="the index itself"):
        erase_file(ERASER, tmp_path / "index.npy", tmp_path / "index.npy")
    with pytest.raises(RunError, match="must both end"):
        erase_file(ERASER, tmp_path / "index.npy", tmp_path / "out.npz")
    assert sorted(tmp_path.iterdir()) == before
    # A linear eraser that normalises takes rows of any length.
    erase_file(ERASER, tmp_path / "longer.npy", tmp_path / "out.npy")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), EXPECTED, atol=1e-6)
