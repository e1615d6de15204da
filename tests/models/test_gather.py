"""The gather over real gloo processes: values, gradients, and ranks that need none."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from models.gather import gather_with_gradient

WORLD = 2


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    results: dict[str, Any] = {}
    x = (torch.arange(6, dtype=torch.float64).view(3, 2) + 10 * rank).requires_grad_()
    gathered = gather_with_gradient(x)
    results["gathered"] = gathered.detach()
    # Each rank weighs all rows in its own way, so a rank that sums only its own part shows.
    weight = torch.arange(12, dtype=torch.float64).view(6, 2) * (rank + 1)
    (gathered * weight).sum().backward(retain_graph=True)
    results["gradient"] = x.grad
    (again,) = torch.autograd.grad((gathered * weight).sum(), x)
    results["again"] = again

    results["integers"] = gather_with_gradient(torch.tensor([rank, rank + 5]))
    results["booleans"] = gather_with_gradient(torch.tensor([rank == 0, True]))
    results["bfloat16"] = gather_with_gradient(torch.tensor([rank + 0.5], dtype=torch.bfloat16))
    strided = torch.arange(4.0).view(2, 2).T + rank
    results["strided"] = gather_with_gradient(strided).detach()
    with torch.no_grad():
        results["no_grad"] = gather_with_gradient(torch.ones(1)).requires_grad

    # Rank 1 has nothing to train here; it must join rank 0's backward all the same.
    lonely = torch.ones(1, 2, dtype=torch.float64, requires_grad=rank == 0)
    (gather_with_gradient(lonely) * (rank + 1)).sum().backward()
    results["lonely"] = lonely.grad
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("gather")
    mp.spawn(_worker, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD)]


def test_values_are_all_rows_in_rank_order(ranks: list[dict[str, Any]]) -> None:
    first = torch.arange(6, dtype=torch.float64).view(3, 2)
    for results in ranks:
        assert torch.equal(results["gathered"], torch.cat([first, first + 10]))
        assert results["integers"].tolist() == [0, 5, 1, 6]
        assert results["booleans"].tolist() == [True, True, False, True]
        assert results["bfloat16"].tolist() == [0.5, 1.5]
        assert results["strided"].tolist() == [[0, 2], [1, 3], [1, 3], [2, 4]]


def test_gradient_sums_what_all_ranks_have_for_the_rows(ranks: list[dict[str, Any]]) -> None:
    weight = torch.arange(12, dtype=torch.float64).view(6, 2)
    for rank, results in enumerate(ranks):
        expected = (weight * (1 + 2))[rank * 3 : rank * 3 + 3]
        assert torch.equal(results["gradient"], expected)
        assert torch.equal(results["again"], expected)  # a retained graph, as for the gradient share


def test_a_rank_without_gradient_joins_the_backward(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["lonely"].tolist() == [[3.0, 3.0]]
    assert ranks[1]["lonely"] is None
    assert not any(results["no_grad"] for results in ranks)


def test_identity_on_one_process() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    assert gather_with_gradient(x) is x
