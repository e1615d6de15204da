"""Two hundred worlds: of the associations that the audit calls significant, few enough are not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from bias_train.audit.social.measure import cells, measure
from bias_train.audit.social.options import SocialOptions
from bias_train.people.vectors import People, Words
from bias_train.stats import Bootstrap
from datamodules.groups import Grouping

WORLDS, LEVEL = 200, 0.05
PICTURES, WIDTH, WORDS = 240, 24, 30
GROUPS = ("a", "b", "c", "d")
OPTIONS = SocialOptions(ks=(20,), minimum=5, bootstrap=Bootstrap(2), floor_draws=2, alpha=LEVEL)


def unit(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()


def world(seed: int, planted: int) -> tuple[People, Words]:
    """Unequal groups, long-tailed pictures, words that are alike as prompts are; the first few know the first group.

    The axis that tells the group is as long for all, so that pictures' lengths, by which scores are divided, do not.
    """
    rng = np.random.default_rng(seed)
    group = rng.choice(len(GROUPS), size=PICTURES, p=(0.4, 0.3, 0.2, 0.1))
    image = rng.standard_t(4, size=(PICTURES, WIDTH)) + np.eye(WIDTH)[1]
    image[:, 0] = np.where(group == 0, 1.5, -1.5)
    text = rng.normal(size=(WORDS, WIDTH)) + 3.0 * np.eye(WIDTH)[1]
    text[:, 0] = 0.0
    text[:planted, 0] = 2.0
    names = tuple(f"word {number}" for number in range(WORDS))
    people = People(unit(image), tuple(map(str, range(PICTURES))), (Grouping("group", GROUPS, group),))
    return people, Words(unit(text), names, ("all",) * WORDS, names, ("core",) * WORDS)


def false_and_all(seed: int, planted: int) -> tuple[int, int]:
    """Significant cells of words that know no group, and all significant cells."""
    people, words = world(seed, planted)
    found = cells(measure("people", "article", people, words, "group", OPTIONS), OPTIONS)
    there = [cell for cell in found if cell.p_adjusted <= LEVEL]
    known = {f"word {number}" for number in range(planted)}
    return sum(cell.word not in known for cell in there), len(there)


@pytest.mark.slow
def test_where_nothing_is_planted_hardly_a_world_has_a_significant_cell() -> None:
    worlds = sum(false_and_all(seed, 0)[1] > 0 for seed in range(WORLDS))
    assert worlds <= binom.ppf(0.999, WORLDS, LEVEL)


@pytest.mark.slow
def test_where_some_are_planted_most_are_found_and_few_others() -> None:
    shares, planted = [], 6
    for seed in range(WORLDS):
        wrong, found = false_and_all(1000 + seed, planted)
        assert found - wrong >= planted  # the first group at least
        shares.append(wrong / max(found, 1))
    # The mean of 200 shares, of which each is at most about a tenth.
    assert np.mean(shares) <= LEVEL + 3 * np.std(shares) / np.sqrt(WORLDS)
