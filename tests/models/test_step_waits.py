"""What a step reads off the device, which would have to be waited for: nothing; and what it encodes of the twins."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_retriever import TinyData, make_batch, tiny, trainer
from torch import Tensor
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from losses import InfoNCE, RankHinge, TwinConsistency
from losses.draw import uniform_rows
from models import LossTerm, ModelError, OptimizerConfig, RetrieverModule
from models.step_scalars import StepScalars


@pytest.fixture(autouse=True)
def _no_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test's training may have left its seed behind."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


# Reading a number, and operations whose result has a size that only the device knows.
WAITING = ("_local_scalar_dense", "nonzero", "_unique", "unique_", "masked_select", "equal.")


class Watch(TorchDispatchMode):
    """Lists the operations that make a host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = any(name in str(func) for name in WAITING)
        # The key of a draw is hashed on the host, whatever the device.
        if waits and not any(frame.filename.endswith("losses/draw.py") for frame in traceback.extract_stack()):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def module_of(retriever: Any, **losses: Any) -> RetrieverModule:
    return RetrieverModule(retriever, {k: LossTerm(v) for k, v in losses.items()}, OptimizerConfig(lr=1e-3))


def test_embedding_a_batch_waits_for_nothing(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    module = module_of(retriever, contrastive=InfoNCE(), hinge=RankHinge(p=0.5), twin=TwinConsistency())
    batch = make_batch(retriever, twins=(5, 0, 6))
    batch["twin_rows"] = [5, 0, 6]
    module._twin_share = lambda: 0.5  # type: ignore[method-assign]
    watch = Watch()
    with watch:
        features = module.features(batch)
        sum(sum(term.loss.forward(features).values()) for term in module.terms.values()).backward()  # type: ignore[union-attr]
    assert watch.found == []
    with watch:
        batch["tokens"].max().item()
    assert watch.found  # so it does see them


def counted(retriever: Any, module: RetrieverModule, batch: dict[str, Any]) -> tuple[list[int], Any]:
    """The features of a batch, and how many pictures each pass of the tower took for them."""
    sizes: list[int] = []
    encode = retriever.encode_image
    retriever.encode_image = lambda images: (sizes.append(len(images)), encode(images))[1]  # type: ignore[method-assign]
    try:
        return sizes, module.features(batch)
    finally:
        retriever.encode_image = encode


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_only_drawn_twins_are_encoded_and_the_gradient_is_that_of_all(tmp_path: Path, p: float) -> None:
    retriever = tiny(tmp_path)  # no batch norm, which would see how many pictures there are
    rows = tuple(range(8))
    loss = RankHinge(p=p, two_sided=True)
    batch = make_batch(retriever, twins=rows)
    gradients = []
    for all_of_them in (False, True):
        module = module_of(retriever, hinge=loss)
        if all_of_them:
            module._drawn_twins = lambda size: None  # type: ignore[method-assign]
        encoded, features = counted(retriever, module, batch)
        drawn = int((uniform_rows(8, seed=0, step=0) < p).sum())
        assert encoded == [8 + (8 if all_of_them else drawn)]
        assert features.has_twin is not None
        assert features.has_twin.all()  # a mean over pairs is over all of them
        value = loss(features)["rank_hinge"]
        weights = [w for w in retriever.parameters() if w.requires_grad]
        gradients.append([value, *torch.autograd.grad(value, weights, allow_unused=True)])
    for few, whole in zip(*gradients, strict=True):
        if few is None or whole is None:
            assert few is whole
        else:
            torch.testing.assert_close(few, whole, atol=1e-6, rtol=1e-4)


def test_a_fixed_draw_or_another_loss_takes_all_twins(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    for losses in ({"a": RankHinge(p=0.5, draw="fixed")}, {"a": RankHinge(p=0.5), "b": TwinConsistency()}):
        assert module_of(retriever, **losses)._drawn_twins(8) is None
    both = module_of(retriever, a=RankHinge(p=0.25), b=RankHinge(p=0.75))
    assert both._drawn_twins(8) == (uniform_rows(8, seed=0, step=0) < 0.75).tolist()


class Late(StepScalars):
    """Numbers that arrive a step late, as from an accelerator."""

    def put(self, step: int, names: Any, values: Tensor) -> None:
        self.settle()
        self._names, self._step, self._host = tuple(names), step, values.clone()


def test_a_number_that_arrives_late_stops_the_next_step_and_the_weights_are_kept(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    module = module_of(retriever, contrastive=InfoNCE())
    module._scalars = Late()

    def keep(scalars: Tensor) -> None:  # what is done on an accelerator
        optimizer: Any = module.optimizers(use_pl_optimizer=False)
        assert optimizer.defaults["fused"]
        optimizer.found_inf = (~torch.isfinite(scalars).all()).float()

    module._keep_weights_from = keep  # type: ignore[method-assign]
    module.terms["contrastive"].loss.forward = spoilt(module.terms["contrastive"].loss.forward)  # type: ignore[method-assign]
    module.terms["contrastive"].loss.__class__.__call__ = torch.nn.Module.__call__  # type: ignore[method-assign]
    try:
        before = retriever.model.token_embedding.weight.detach().clone()
        with pytest.raises(ModelError, match="train/contrastive/infonce is nan at step 1"):
            trainer(tmp_path, max_steps=4).fit(module, TinyData([make_batch(retriever, seed=s) for s in range(4)]))
    finally:
        del InfoNCE.__call__
    after = retriever.model.token_embedding.weight
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)  # step 0 was taken


def spoilt(forward: Any) -> Any:
    def other(features: Any) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = forward(features)
        return {k: v * float("nan") for k, v in terms.items()} if features.step == 1 else terms

    return other


@pytest.mark.parametrize("found_inf", [0.0, 1.0])
def test_a_fused_optimizer_leaves_the_weights_where_it_is_told_to(found_inf: float) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer: Any = AdamW([weight], lr=0.1, fused=True)
    weight.grad = torch.full((3,), float("nan") if found_inf else 1.0)
    optimizer.found_inf = torch.tensor(found_inf)
    optimizer.step()
    assert torch.equal(weight, torch.ones(3)) == bool(found_inf)
    assert torch.isfinite(weight).all()
