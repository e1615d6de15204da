"""Weights on the line between two retrievers, and which of them is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_retriever import random_images, tiny

from models import ModelError
from models.interpolation import between, kept_state, put_between
from models.retriever import Retriever
from models.text_remedies.paint import ALPHAS, Point, choose, walk


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_the_ends_are_exact_and_the_middle_is_the_mean(tmp_path: Path, kind: str) -> None:
    start, tuned = (kept_state(tiny(tmp_path, kind, seed=seed)) for seed in (0, 1))
    retriever = tiny(tmp_path, kind, seed=2)
    counters = {n: t.clone() for n, t in retriever.state_dict().items() if not t.is_floating_point()}
    for alpha, expected in ((0.0, start), (1.0, tuned), (0.25, {n: 0.75 * start[n] + 0.25 * tuned[n] for n in start})):
        put_between(retriever, start, tuned, alpha)
        state = retriever.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert all(torch.equal(retriever.state_dict()[n], t) for n, t in counters.items())
    assert (kind == "vit") == (not counters)


def test_between_is_exact_where_lerp_is_not() -> None:
    start, trained = torch.tensor([1e8]), torch.tensor([0.1])
    assert torch.equal(between(start, trained, 1.0), trained)
    assert torch.equal(between(start, trained, 0.0), start)


def test_the_best_attack_figure_among_those_that_keep_the_clean_one() -> None:
    points = [Point(a, 0.6 - 0.5 * a, 0.40 - 0.05 * a**2) for a in ALPHAS]
    chosen = choose(points, margin=0.02)
    # 0.05 a^2 <= 0.02 up to a = 0.632.
    assert chosen.point.alpha == 0.6
    assert chosen.floor == pytest.approx(0.38)
    assert [point.alpha for point in chosen.points if chosen.allowed(point)] == list(ALPHAS[:7])
    assert choose(points, margin=0.0).point.alpha == 0.0
    assert choose(points, margin=1.0).point.alpha == 1.0


def test_ties_and_points_on_the_margin() -> None:
    # 0.3 - 0.29 is a hair more than 0.01 in binary.
    points = [Point(0.0, 0.5, 0.3), Point(1.0, 0.2, 0.29), Point(0.5, 0.2, 0.3)]
    assert choose(points, margin=0.01).allowed(points[1])
    assert choose(points, margin=0.01).point.alpha == 0.5
    # What makes reading worse is never taken.
    assert choose([Point(0.0, 0.5, 0.3), Point(1.0, 0.6, 0.5)]).point.alpha == 0.0


def test_mistakes_are_named() -> None:
    with pytest.raises(ModelError, match="no point at alpha 0"):
        choose([Point(0.5, 0.1, 0.1)])
    with pytest.raises(ModelError, match="at alpha 1 the figures are"):
        choose([Point(0.0, 0.1, 0.1), Point(1.0, float("nan"), 0.1)])
    with pytest.raises(ModelError, match="the margin"):
        choose([Point(0.0, 0.1, 0.1)], margin=-0.1)


def test_walking_the_line(tmp_path: Path) -> None:
    start, tuned = tiny(tmp_path, seed=0), tiny(tmp_path, seed=1)
    first, last = kept_state(start), kept_state(tuned)
    images = random_images(3, 16)
    seen = []

    def measure(one: Retriever) -> tuple[float, float]:
        assert one is start
        with torch.no_grad():
            seen.append(one.eval().encode_image(images))
        alpha = len(seen) - 1
        return 0.5 - 0.1 * alpha, 0.4 - (0.2 if alpha == 2 else 0.0)

    chosen = walk(start, tuned, measure, alphas=(1.0, 0.5), margin=0.01)
    assert [point.alpha for point in chosen.points] == [0.0, 0.5, 1.0]
    assert chosen.point.alpha == 0.5
    state = start.state_dict()
    assert all(torch.equal(state[name], 0.5 * first[name] + 0.5 * last[name]) for name in first)
    assert all(torch.equal(tensor, last[name]) for name, tensor in kept_state(tuned).items())
    with torch.no_grad():
        assert torch.equal(tuned.eval().encode_image(images), seen[2])
        assert torch.equal(start.encode_image(images), seen[1])


def test_what_goes_wrong_leaves_the_start(tmp_path: Path) -> None:
    start, tuned = tiny(tmp_path, seed=0), tiny(tmp_path, seed=1)
    first = kept_state(start)

    def fails(one: Retriever) -> tuple[float, float]:
        if not torch.equal(next(iter(kept_state(one).values())), next(iter(first.values()))):
            raise ModelError("no")
        return 0.0, 0.0

    with pytest.raises(ModelError, match="no"):
        walk(start, tuned, fails)
    assert all(torch.equal(tensor, first[name]) for name, tensor in kept_state(start).items())
    with pytest.raises(ModelError, match="different architectures"):
        walk(start, tiny(tmp_path, "resnet"), fails)
    with pytest.raises(ModelError, match=r"1\.5 is among them"):
        walk(start, tuned, fails, alphas=(0.0, 1.5))
