"""Exact search against brute force in float64, against faiss, and where it is hard: ties, crowds, bad order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bias_train.metrics.functional import top_k as module
from bias_train.metrics.functional.top_k import top_k

SMALL = 1 << 20  # bytes, so that a gallery of some thousand rows takes several blocks
PASSES = [torch.float32, torch.bfloat16]

passes = pytest.mark.parametrize("first_pass", PASSES, ids=["float32", "bfloat16"])


def brute_force(query: Tensor, gallery: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = (query.double().numpy() @ gallery.double().numpy().T).astype(np.float32)
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, index, axis=1), index


def assert_exact(query: Tensor, gallery: Tensor, k: int, first_pass: torch.dtype, chunk_bytes: int = SMALL) -> None:
    scores, index = top_k(query, gallery, k, chunk_bytes=chunk_bytes, first_pass=first_pass)
    wanted_scores, wanted_index = brute_force(query, gallery, k)
    assert scores.dtype == torch.float32
    assert index.dtype == torch.int64
    np.testing.assert_array_equal(index.numpy(), wanted_index)
    np.testing.assert_array_equal(scores.numpy(), wanted_scores)


def unit(rows: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


@passes
@pytest.mark.parametrize(("rows", "width", "k"), [(5000, 24, 10), (3001, 64, 100), (130, 8, 130), (1, 5, 1)])
def test_it_finds_what_brute_force_finds(rows: int, width: int, k: int, first_pass: torch.dtype) -> None:
    assert_exact(unit(70, width, 0), unit(rows, width, 1), k, first_pass)


@passes
def test_equal_scores_stand_in_the_gallery_s_order(first_pass: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    # Few distinct integer scores, so that every cut-off lies inside a crowd of tied rows that many blocks share.
    query, gallery = torch.randint(-1, 2, (40, 6), generator=draw), torch.randint(-1, 2, (6000, 6), generator=draw)
    query[query.abs().sum(dim=1) == 0] = 1
    assert_exact(query.float(), gallery.float(), 50, first_pass)


@passes
def test_copies_of_a_row_tie_wherever_they_stand(first_pass: torch.dtype) -> None:
    gallery = unit(4000, 32, 2)
    copies = [7, 800, 1999, 3998, 3999]
    gallery[copies] = gallery[7].clone()
    scores, index = top_k(gallery[7:8], gallery, 6, chunk_bytes=SMALL, first_pass=first_pass)
    assert index[0, :5].tolist() == copies
    assert len(scores[0, :5].unique()) == 1


@passes
def test_a_collapsed_gallery_gives_its_first_rows(first_pass: torch.dtype) -> None:
    gallery = unit(1, 16, 3).expand(5000, 16)
    _, index = top_k(unit(9, 16, 4), gallery, 20, chunk_bytes=SMALL, first_pass=first_pass)
    assert (index == torch.arange(20)).all()


@passes
def test_differences_far_below_the_first_pass_s_precision_decide(first_pass: torch.dtype) -> None:
    noise = torch.randn(5000, 16, generator=torch.Generator().manual_seed(5)) * 1e-5
    assert_exact(unit(20, 16, 6), unit(1, 16, 7) + noise, 15, first_pass)


@passes
@pytest.mark.parametrize("falling", [False, True])
def test_a_sorted_gallery_is_no_harder(falling: bool, first_pass: torch.dtype) -> None:
    query, gallery = unit(5, 16, 8), unit(5000, 16, 9)
    assert_exact(query, gallery[(gallery @ query[0]).argsort(descending=falling)], 30, first_pass)


@passes
@pytest.mark.parametrize("scale", [1e-18, 1e-3, 1e12])
def test_rows_of_any_length_and_sign(scale: float, first_pass: torch.dtype) -> None:
    length = torch.rand(4000, 1, generator=torch.Generator().manual_seed(10)) * scale
    gallery = unit(4000, 20, 11).abs() * length
    assert_exact(-unit(30, 20, 12).abs(), gallery, 12, first_pass)  # all scores below zero
    assert_exact(unit(30, 20, 12), gallery, 12, first_pass)


def test_more_queries_than_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUP", 16)
    assert_exact(unit(37, 24, 13), unit(3000, 24, 14), 7, torch.float32, 1 << 18)


def test_the_chunk_changes_nothing() -> None:
    query, gallery = unit(50, 48, 15), unit(4000, 48, 16)
    found = [top_k(query, gallery, 20, chunk_bytes=size) for size in (100_000, 1 << 20, 1 << 28)]
    for scores, index in found[1:]:
        assert torch.equal(scores, found[0][0])
        assert torch.equal(index, found[0][1])


def test_it_agrees_with_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    query, gallery = unit(64, 96, 17), unit(20_000, 96, 18)
    searched = faiss.IndexFlatIP(96)
    searched.add(gallery.numpy())
    theirs, their_index = searched.search(query.numpy(), 10)
    for first_pass in PASSES:
        scores, index = top_k(query, gallery, 10, first_pass=first_pass)
        np.testing.assert_allclose(scores.numpy(), theirs, atol=1e-6)
        assert (index.numpy() == their_index).mean() > 0.999  # its float32 sums may swap neighbours


@passes
def test_galleries_in_files_and_in_parts(tmp_path: Path, first_pass: torch.dtype) -> None:
    gallery = unit(3000, 24, 19)
    np.save(tmp_path / "gallery.npy", gallery.numpy())
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    query = unit(10, 24, 20)
    wanted = top_k(query, gallery, 9, first_pass=first_pass)
    parts = (mapped[start : start + 700] for start in range(0, 3000, 700))
    for other in (mapped, parts, [gallery[:1], gallery[1:]]):
        found = top_k(query, other, 9, chunk_bytes=SMALL, first_pass=first_pass)
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    half = gallery.half()
    assert_exact(query, half, 9, first_pass)


def test_bad_input_is_refused_by_name() -> None:
    query, gallery = unit(3, 8, 21), unit(2000, 8, 22)
    broken = gallery.clone()
    broken[1234, 3] = torch.nan
    with pytest.raises(ValueError, match="gallery row 1234 is not finite"):
        top_k(query, broken, 2, chunk_bytes=100_000)
    with pytest.raises(ValueError, match="queries row 1 is not finite"):
        top_k(torch.where(torch.arange(3)[:, None] == 1, torch.inf, query), gallery, 2)
    with pytest.raises(ValueError, match="k is 0"):
        top_k(query, gallery, 0)
    with pytest.raises(ValueError, match="holds only 2000 rows"):
        top_k(query, gallery, 2001)
    with pytest.raises(ValueError, match="holds only 0 rows"):
        top_k(query, [], 1)
    with pytest.raises(ValueError, match=r"the gallery is \(2000, 7\)"):
        top_k(query, gallery[:, :7], 1)
    with pytest.raises(ValueError, match="from row 2000 on"):
        top_k(query, [gallery, gallery.long()], 1)
    with pytest.raises(ValueError, match="chunk_bytes is 1000"):
        top_k(query, gallery, 1, chunk_bytes=1000)
    with pytest.raises(ValueError, match="first_pass is"):
        top_k(query, gallery, 1, first_pass=torch.float16)


@pytest.mark.gpu
@passes
def test_on_a_gpu(first_pass: torch.dtype) -> None:
    query, gallery = unit(70, 64, 0), unit(9000, 64, 1)
    scores, index = top_k(query, gallery, 20, chunk_bytes=1 << 22, first_pass=first_pass, device="cuda")
    wanted_scores, wanted_index = brute_force(query, gallery, 20)
    np.testing.assert_array_equal(index.cpu().numpy(), wanted_index)
    np.testing.assert_array_equal(scores.cpu().numpy(), wanted_scores)
