"""What a remedy may cost, against naive counts, scikit-learn and planted vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from bias_train.audit.social.side_effects import leakage, off_target, retention, utility
from bias_train.metrics.functional.retrieval import retrieval
from bias_train.people.vectors import GroupPrompts, People
from bias_train.stats import Bootstrap
from datamodules.groups import Grouping, grouping


def unit(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()


def people(seed: int = 0, count: int = 240, strength: float = 1.0) -> People:
    """Pictures whose first coordinates say the kind (of three), and whose fourth says the size."""
    rng = np.random.default_rng(seed)
    kind, size = rng.choice(3, size=count, p=(0.5, 0.3, 0.2)), rng.integers(0, 2, size=count)
    image = rng.normal(size=(count, 12))
    image[np.arange(count), kind] += 3.0 * strength
    image[:, 3] += 4.0 * strength * size
    return People(
        unit(image),
        tuple(map(str, range(count))),
        (Grouping("kind", ("a", "b", "c"), kind), Grouping("size", ("big", "small"), size)),
    )


def prompts(names: tuple[str, ...] = ("a", "b", "c", "b")) -> GroupPrompts:
    rng = np.random.default_rng(9)
    text = 0.3 * rng.normal(size=(len(names), 12))
    for row, name in enumerate(names):
        text[row, "abc".find(name)] += 1.0
    return GroupPrompts(unit(text), "kind", names, tuple(f"a photo of {name}" for name in names))


def named(figures: list, key: str):  # type: ignore[no-untyped-def, type-arg]
    return next(figure for figure in figures if figure.key == key)


def test_retention_is_the_precision_of_the_named_group() -> None:
    data, asked = people(), prompts()
    figures = retention(data, asked, ks=(10, 1000), bootstrap=Bootstrap(200))
    kind = data.grouping("kind")
    precision = {10: [], 1000: []}  # type: ignore[var-annotated]
    for row, name in enumerate(asked.group):
        code = kind.labels.index(name)
        order = np.argsort(-(asked.text[row].double() @ data.image.double().T).numpy())
        for k, found in precision.items():
            cut = min(k, int((kind.code == code).sum()))
            found.append((kind.code[order[:cut]] == code).mean())
    pool = np.mean([(kind.code == kind.labels.index(name)).mean() for name in asked.group])
    for k, found in precision.items():
        figure = named(figures, f"retention@{k}")
        assert figure.value == pytest.approx(np.mean(found))
        assert figure.low <= figure.value <= figure.high
        assert (figure.count, figure.label) == (4, "kind")
        assert named(figures, f"retention_pool@{k}").value == pytest.approx(pool)
        assert named(figures, f"retention_lift@{k}").value == pytest.approx((np.mean(found) - pool) / (1 - pool))
    assert named(figures, "retention@10").value > 0.9  # planted
    # Vectors that know no kind find each at its share.
    blind = replace(data, image=unit(np.random.default_rng(1).normal(size=(240, 12))))
    assert abs(named(retention(blind, asked, ks=(100,)), "retention_lift@100").value) < 0.15


def test_retention_in_an_order_of_its_own_and_with_ties() -> None:
    data, asked = people(), prompts()
    scores = asked.text.double() @ data.image.double().T
    order = np.argsort(-scores.numpy(), axis=1)
    by_rank = retention(data, asked, ks=(10,), bootstrap=Bootstrap(50), ranking=order)
    assert by_rank == retention(data, asked, ks=(10,), bootstrap=Bootstrap(50))
    # All pictures the same: any order is as good, so that each group is found at its share, whatever the file's order.
    same = replace(data, image=torch.ones(240, 12))
    tied = retention(same, asked, ks=(10,))
    assert named(tied, "retention@10").value == pytest.approx(named(tied, "retention_pool@10").value)


def test_retention_leaves_out_what_is_unknown() -> None:
    data, asked = people(), prompts(("a", "b", "nobody"))
    kind = data.groupings[0]
    unknown = Grouping("kind", ("a", "b"), np.where(kind.code < 2, kind.code, -1))
    found = retention(replace(data, groupings=(unknown,)), asked, ks=(10,))
    kept = np.flatnonzero(kind.code < 2)
    alone = retention(replace(data.rows(kept), groupings=(unknown.rows(kept),)), prompts(("a", "b")), ks=(10,))
    assert [figure.count for figure in found] == [2, 2, 2]
    # The prompts' noise depends on how many there are, so that only the pool's share is the same.
    assert named(found, "retention_pool@10").value == named(alone, "retention_pool@10").value
    assert "1 prompts of groups without pictures left out" in found[0].note
    with pytest.raises(ValueError, match="no prompt names a group"):
        retention(data, prompts(("nobody",)), ks=(10,))


def test_leakage_agrees_with_scikit_learn() -> None:
    data = people(count=900)
    kind = data.grouping("kind")
    figures = leakage(data.image, kind, seed=3, bootstrap=Bootstrap(200))
    accuracy = named(figures, "leakage_accuracy")
    assert accuracy.low < accuracy.value < accuracy.high
    # Another half by another library: equal within the noise of 450 pictures.
    rng = np.random.default_rng(0)
    train = np.zeros(900, dtype=bool)
    train[rng.choice(900, 450, replace=False)] = True
    x = data.image.double().numpy()
    other = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[train], kind.code[train])
    assert accuracy.value == pytest.approx(other.score(x[~train], kind.code[~train]), abs=0.05)
    auc = roc_auc_score(kind.code[~train], other.predict_proba(x[~train]), multi_class="ovr")
    assert named(figures, "leakage_auc").value == pytest.approx(auc, abs=0.03)
    assert named(figures, "leakage_majority").value == pytest.approx(kind.counts.max() / 900, abs=0.005)
    assert figures == leakage(data.image, kind, seed=3, bootstrap=Bootstrap(200))


def test_leakage_of_nothing_is_chance() -> None:
    data = people(count=1200, strength=0.0)
    figures = leakage(data.image, data.grouping("size"))
    assert named(figures, "leakage_auc").value == pytest.approx(0.5, abs=0.06)
    assert named(figures, "leakage_accuracy").value == pytest.approx(0.5, abs=0.06)


def test_leakage_leaves_out_small_groups() -> None:
    data = people(count=100)
    values = [["x", "y"][i % 2] if i < 90 else ("rare" if i < 93 else None) for i in range(100)]
    figures = leakage(data.image, grouping("made", values))
    assert [figure.count for figure in figures] == [46] * 3
    assert "10 pictures left out" in figures[0].note
    with pytest.raises(ValueError, match="fewer than two groups"):
        leakage(data.image, grouping("made", ["x"] * 97 + ["y"] * 3))


def test_utility_is_the_retrieval_metric() -> None:
    rng = np.random.default_rng(0)
    image = unit(rng.normal(size=(30, 12)))
    text = unit(image.numpy() + 0.5 * rng.normal(size=(30, 12)))
    target = torch.arange(30)
    bootstrap = Bootstrap(50)
    found = utility(text, image, target, target, ks=(1,), bootstrap=bootstrap)
    assert found == retrieval(text, image, target, target, ks=(1,), bootstrap=bootstrap)


def test_off_target_measures_the_other_attributes() -> None:
    data = people()
    text = unit(np.eye(12)[[0, 3, 4, 5]])
    assert {figure.label for figure in off_target(text, data, "kind", ks=(20,))} == {"size"}
    assert {figure.label for figure in off_target(text, data, "size", ks=(20,))} == {"kind"}
    assert off_target(text, data, "kind x size", ks=(20,)) == []
    # The second query asks for the size: of four words, it alone has an association, in both groups.
    size = named(off_target(text, data, "kind", ks=(20,)), "abs_association")
    scores = (text.double() @ data.image.double().T).numpy()
    code = data.grouping("size").code
    expected = np.mean([abs(row[code == 0].mean() - row[code == 1].mean()) / row.std(ddof=1) for row in scores])
    assert size.value == pytest.approx(expected, rel=1e-5)
    assert named(off_target(text, data, "kind", ks=(20,)), "excess_max_skew@20").value > 0
