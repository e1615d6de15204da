"""Query-wise equalisation: exact, nearest, optimal, and its first step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_people import WIDTH, calibration, queries
from scipy.optimize import minimize
from torch import Tensor

from models import ModelError
from models.remedies import Calibration, Equalisation


def nearest_means(query: Tensor, data: Calibration, nearest: int) -> Tensor:
    """[G, D] float64, picture by picture for one query."""
    found = []
    for code in range(data.groups):
        own = data.image[data.group == code].double()
        by_score = sorted(range(len(own)), key=lambda row: -float(own[row] @ query))
        found.append(own[by_score[:nearest]].mean(dim=0))
    return torch.stack(found)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("nearest", [1, 7, 60, None])
def test_every_groups_mean_scores_equally(groups: int, nearest: int | None) -> None:
    data = calibration(groups)
    x = queries(300, groups, 3)  # more than are moved at once
    moved = Equalisation(nearest).fit(data).text(x)
    torch.testing.assert_close(moved.norm(dim=1), torch.ones(300))
    apart = []
    for row in (0, 150, 299):
        means = nearest_means(x[row].double(), data, nearest or 60)
        scores = means @ moved[row].double()
        assert float(scores.max() - scores.min()) < 1e-6
        apart.append(float((means @ x[row].double()).std()))
    assert max(apart) > 1e-2


def test_no_other_unit_vector_is_closer() -> None:
    data = calibration(3)
    query = queries(1, 3, 4)[0].double()
    means = nearest_means(query, data, 10).numpy()
    moved = Equalisation(10).fit(data).text(query[None])[0]
    solved = minimize(
        lambda e: -float(e @ query.numpy()),
        query.numpy(),
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda e: (means[1:] - means[0]) @ e},
            {"type": "eq", "fun": lambda e: e @ e - 1},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solved.success
    assert float(moved @ query) >= -solved.fun - 1e-8
    np.testing.assert_allclose(moved.numpy(), solved.x, atol=1e-4)


def test_pictures_stay_and_equal_queries_stay() -> None:
    data = calibration(2)
    fitted = Equalisation(None).fit(data)
    assert fitted.image(data.image) is data.image
    assert fitted.linear() is None
    once = fitted.text(data.words)
    torch.testing.assert_close(fitted.text(once), once, rtol=0, atol=1e-6)
    assert fitted.text(data.words.double()).dtype == torch.float64
    assert fitted.text(data.words[:0]).shape == (0, WIDTH)


def test_one_picture_for_all_groups_moves_nothing() -> None:
    data = replace(calibration(2), image=torch.ones(120, WIDTH) / WIDTH**0.5)
    torch.testing.assert_close(Equalisation(5).fit(data).text(data.words), data.words, rtol=0, atol=1e-6)


def test_the_first_step_takes_out_the_words_own_group_directions() -> None:
    data = calibration(3)
    assert data.composed is not None
    # Without a group that differs, the second step has nothing to do and the first stands alone.
    alike = replace(data, image=torch.ones(180, WIDTH) / WIDTH**0.5)
    moved = Equalisation(5, local=True).fit(alike).text(data.words).double()
    for word, composed in zip(moved, data.composed.double(), strict=True):
        spurious = torch.cat([data.group_prompts.double(), composed[1:] - composed[:1]])
        assert (spurious @ word).abs().max() < 1e-6
        assert float(word.norm()) == pytest.approx(1.0, abs=1e-6)
    both = Equalisation(60, local=True).fit(data).text(data.words).double()
    scores = both @ data.means().T
    assert float((scores.max(dim=1).values - scores.min(dim=1).values).max()) < 1e-6


def test_what_cannot_be_equalised_is_named() -> None:
    data = calibration(2)
    with pytest.raises(ModelError, match="nearest is 0"):
        Equalisation(0)
    with pytest.raises(ModelError, match="group 'c' has no picture"):
        Equalisation().fit(replace(data, labels=("a", "b", "c")))
    with pytest.raises(ModelError, match="composed and words"):
        Equalisation(local=True).fit(replace(data, words=torch.empty(0, WIDTH), composed=None))
    with pytest.raises(ModelError, match="one for each"):
        Equalisation(local=True).fit(replace(data, words=data.words[:3]))
    difference = torch.nn.functional.normalize(data.means()[1:] - data.means()[:1], dim=1)
    with pytest.raises(ModelError, match="nothing is left of query 0"):
        Equalisation(None).fit(data).text(difference)
