"""Every public loss gives the gradient of the global batch, however many processes share it."""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from parity_cases import CASES, OPTIONS, case_name, value_and_gradients, worker
from torch import Tensor

import losses
from losses import Loss


def public_losses() -> set[type[Loss]]:
    """Every concrete loss defined in any module of the package, exported or not."""
    found: set[type[Loss]] = set()
    for module in [losses, *(import_module(f"losses.{item.name}") for item in iter_modules(losses.__path__))]:
        for name, value in vars(module).items():
            if not name.startswith("_") and inspect.isclass(value) and issubclass(value, Loss):
                found.add(value)
    return {kind for kind in found if not inspect.isabstract(kind)}


def test_every_public_loss_has_a_parity_case() -> None:
    missing = sorted(kind.__name__ for kind in public_losses() - set(OPTIONS))
    assert not missing, f"add these losses to tests/losses/parity_cases.py: {missing}"


def test_every_public_loss_is_exported() -> None:
    assert {kind.__name__ for kind in public_losses()} <= set(losses.__all__)


@pytest.fixture(scope="session", params=[2, 4])
def over_processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All cases in one set of processes: starting them takes longer than the cases."""
    world: int = request.param
    folder = tmp_path_factory.mktemp(f"parity{world}")
    mp.spawn(worker, args=(world, str(folder)), nprocs=world)
    results: dict[str, Any] = torch.load(folder / "results.pt")
    return results


@pytest.mark.parametrize("case", CASES, ids=[case_name(*case) for case in CASES])
def test_gradient_parity(case: tuple[type[Loss], int, str], over_processes: dict[str, Any]) -> None:
    alone: dict[str, Tensor] = value_and_gradients(case, rank=0, world=1)
    together = over_processes[case_name(*case)]
    for name, expected in alone.items():
        torch.testing.assert_close(
            together[name], expected, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_cases_are_not_vacuous() -> None:
    for case in CASES:
        if case[2] == "uneven":
            result = value_and_gradients(case, rank=0, world=1)
            # What reads prompts alone reaches the text tower only.
            assert max(result["image"].abs().max(), result["text"].abs().max()) > 1e-4, case_name(*case)
