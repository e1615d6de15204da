"""An audit's figures against brute force, other libraries, identities and known models."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_bias import KnownPairs
from naive_audit import naive_both, naive_location, naive_swap, of_gallery
from naive_rankings import Case, naive_source, random_case
from scipy import stats
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from bias_train.audit.evaluate import evaluate
from bias_train.audit.options import AuditOptions
from bias_train.audit.outcome import Outcome, Row
from bias_train.audit.plan import plan_audit
from bias_train.audit.run import audit_source
from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.metrics.functional.source import source_bias
from bias_train.stats import Bootstrap

KS = (1, 2, 5, 40)
QUICK = AuditOptions(ks=KS, bootstrap=Bootstrap(20), permutations=0, quantiles=2, max_rank=4)


def embeddings_of(case: Case, relevance: str = "pair") -> Embeddings:
    rows = len(case.image)
    return Embeddings(
        image=case.image,
        image_key=tuple(f"picture {i}" for i in range(rows)),
        image_target=case.image_target.numpy(),
        image_source=case.image_source.numpy(),
        sources=("real", "first", "second"),
        text=case.text,
        query=tuple("word " * (1 + i % 3) for i in range(len(case.text))),
        query_target=case.query_target.numpy(),
        query_slot=case.query_slot.numpy(),
        relevance=relevance,
    )


def planted(data: dict[str, torch.Tensor]) -> Embeddings:
    return Embeddings(
        image=data["image"],
        image_key=tuple(map(str, range(len(data["image"])))),
        image_target=data["image_target"].numpy(),
        image_source=data["image_source"].numpy(),
        sources=("real", "made"),
        text=data["text"],
        query=("",) * len(data["text"]),
        query_target=data["query_target"].numpy(),
        query_slot=data["query_slot"].numpy(),
    )


def alike(found: dict[str, Row], reference: dict[str, float], where: object) -> None:
    for key, value in reference.items():
        assert found[key].value == pytest.approx(value, abs=1e-8, nan_ok=True), (where, key)


def rows_of(outcome: Outcome, group: str, cell: str, mode: str) -> dict[str, Row]:
    return {
        row.key: row for row in outcome.rows if (row.group, row.cell, row.mode, row.label) == (group, cell, mode, "")
    }


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_cell_against_brute_force(seed: int) -> None:
    """Ties, missing twins, several twins, several captions: whatever the cell, the definitions give its figures."""
    case = random_case(seed)
    data = embeddings_of(case)
    outcome = audit_source(data, QUICK)
    plan = plan_audit(data, QUICK)
    for cell in plan.cells:
        rows = np.flatnonzero(plan.galleries[cell.gallery].rows)
        queries = np.arange(len(case.text)) if cell.queries is None else np.flatnonzero(cell.queries)
        part = of_gallery(case, rows, queries)
        reference = naive_source(part, list(KS), cell.mode, pairs=True, max_rank=4)
        reference = {key: value for key, value in reference.items() if not key.split("@")[0].endswith(("_P", "P_real",
                     "P_generated"))}  # fmt: skip
        reference |= naive_both(part, list(KS), cell.mode)
        if cell.group != "ratio":
            location = naive_location(part, list(KS), cell.mode)
            if cell.queries is not None:
                location = {key: value for key, value in location.items() if "median" not in key}
            reference |= location
        found = rows_of(outcome, cell.group, cell.name, cell.mode)
        alike(found, reference, (seed, cell.group, cell.name, cell.mode))
        # Beyond the definitions there is nothing but means of what was compared, and what is undefined.
        for key, row in found.items():
            if key.endswith("_R1_MeanR"):
                kind = key.removesuffix("_R1_MeanR")
                parts = [found[f"{kind}_R@1"].value, found[f"{kind}_inverse_mean_rank"].value]
                assert row.value == pytest.approx(np.mean(parts), nan_ok=True)
                parts.append(found[f"{kind}_inverse_median_rank"].value)
                assert found[f"{kind}_R1_MedR_MeanR"].value == pytest.approx(np.mean(parts), nan_ok=True)
            elif not key.endswith("_R1_MedR_MeanR"):
                assert key in reference or math.isnan(row.value), key


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_cells_equal_galleries_ranked_alone(seed: int, method: str) -> None:
    """Values, intervals, counts and notes are those of `source_bias` on the cell's gallery and queries."""
    case = random_case(seed, targets=4)
    options = replace(QUICK, bootstrap=Bootstrap(30, method=method))
    data = embeddings_of(case)
    plan = plan_audit(data, options)
    for result in evaluate(data, plan, options):
        rows = torch.from_numpy(plan.galleries[result.cell.gallery].rows)
        asked = np.ones(len(case.text), dtype=bool) if result.cell.queries is None else result.cell.queries
        queries = torch.from_numpy(asked)
        figures = source_bias(
            case.text[queries], case.image[rows], case.query_target[queries], case.image_target[rows],
            case.image_source[rows], ks=KS, mode=result.cell.mode, relevance="pair",
            query_slot=case.query_slot[queries], bootstrap=options.bootstrap, max_rank=4,
        )  # fmt: skip
        found = {figure.key: figure for figure in result.measured[0].figures(options.bootstrap)}
        for figure in figures:
            mine = found[figure.key]
            assert (mine.value, mine.low, mine.high) == pytest.approx(
                (figure.value, figure.low, figure.high), abs=1e-9, nan_ok=True
            ), (result.cell.name, figure.key)
            assert (mine.count, mine.note) == (figure.count, figure.note)


@pytest.mark.parametrize("seed", range(8))
def test_label_swap_against_every_relabelling(seed: int) -> None:
    case = random_case(seed, targets=4)
    data = embeddings_of(case)
    options = replace(QUICK, ks=(1, 3), permutations=9999)
    outcome = audit_source(data, options)
    plan = plan_audit(data, options)
    tested = 0
    for cell in plan.cells:
        rows = np.flatnonzero(plan.galleries[cell.gallery].rows)
        queries = np.arange(len(case.text)) if cell.queries is None else np.flatnonzero(cell.queries)
        found = rows_of(outcome, cell.group, cell.name, cell.mode)
        if cell.mode == "paper":
            assert all(row.p is None for row in found.values())
            continue
        part = of_gallery(case, rows, queries)
        if "pair_win_rate" not in found:
            continue
        for key, p in naive_swap(part, [1, 3]).items():
            if not math.isnan(found[key].value):
                assert found[key].p == pytest.approx(p), (cell, key)
                tested += 1
    assert tested == outcome.tests


@pytest.mark.parametrize("seed", range(12))
def test_classes_against_brute_force(seed: int) -> None:
    case = random_case(seed, label=True)
    data = embeddings_of(case, "label")
    options = replace(QUICK, ks=(1, 3), precision_ks=(2, 40))
    outcome = audit_source(data, options)
    for cell in (plan := plan_audit(data, options)).cells:
        part = of_gallery(case, np.flatnonzero(plan.galleries[cell.gallery].rows), np.arange(len(case.text)))
        reference = naive_source(part, [1, 2, 3, 40], "clean", pairs=False)
        found = rows_of(outcome, cell.group, cell.name, "clean")
        alike(found, {key: value for key, value in reference.items() if key in found}, cell)
        assert {"win_rate", "relative_delta_R@3", "relative_delta_P@40"} <= set(found) or "win_rate" not in reference


def test_known_models() -> None:
    """Interval ends enclose what the model that the embeddings were drawn from has in closed form."""
    model = KnownPairs(pairs=400)
    outcome = audit_source(planted(model.draw(np.random.default_rng(5))), AuditOptions(ks=(1,), permutations=999))
    found = rows_of(outcome, "headline", "all generators", "clean")
    # The bar belongs to a picture that the even gallery may leave out; the win rate knows no other pictures.
    truth = model.truth()["pair_win_rate"]
    assert found["pair_win_rate"].low <= truth <= found["pair_win_rate"].high
    assert found["pair_win_rate"].p == 1 / 1000
    assert found["pair_win_rate"].p_adjusted is not None


def test_p_is_uniform_without_a_bias() -> None:
    """Where photo and twin come from one distribution, audits reject as often as they say."""
    model = KnownPairs(pairs=40, captions=3, mean_generated=5.0)
    rng = np.random.default_rng(2)
    options = AuditOptions(ks=(1,), bootstrap=Bootstrap(2), permutations=199, quantiles=0, ratios=())
    p = []
    for seed in range(150):
        outcome = audit_source(planted(model.draw(rng)), replace(options, seed=seed))
        row = outcome.find("relative_delta_R", 1)
        assert row is not None
        p.append(row.p)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=shape)).float(), dim=1)


def vectors(seed: int = 0, pairs: int = 60, captions: int = 3, pull: float = 0.0) -> Embeddings:
    """Pairs in general position, without ties; ``pull`` moves twins towards the captions."""
    rng = np.random.default_rng(seed)
    scene = rng.normal(size=(pairs, 16))

    def view(noise: float, times: int = 1) -> torch.Tensor:
        rows = np.repeat(scene, times, axis=0)
        rows = rows + noise * rng.normal(size=rows.shape)
        return torch.nn.functional.normalize(torch.from_numpy(rows).float(), dim=1)

    target = np.arange(pairs)
    return Embeddings(
        image=torch.cat([view(1.0), view(1.0 - pull)]),
        image_key=tuple(f"{kind}{i}" for kind in ("photo", "twin") for i in range(pairs)),
        image_target=np.r_[target, target],
        image_source=np.r_[np.zeros(pairs), np.ones(pairs)].astype(np.int64),
        sources=("real", "made"),
        text=view(1.2, captions),
        query=tuple("word " * int(n) for n in rng.integers(3, 12, size=pairs * captions)),
        query_target=np.repeat(target, captions),
        query_slot=np.tile(np.arange(captions), pairs),
    )


def test_textbook_parts_against_sklearn() -> None:
    """R@k, NDCG@k and the mean reciprocal rank are scikit-learn's where nothing ties."""
    data = vectors()
    assert data.text is not None
    outcome = audit_source(data, replace(QUICK, ks=(1, 3, 10), max_rank=100))
    found = rows_of(outcome, "headline", "all generators", "clean")
    scores = (data.text.double() @ data.image.double().T).numpy()
    pairs, wanted = 60, data.query_target
    for side, source in enumerate(("real", "generated")):
        column = wanted + side * pairs
        hot = np.zeros_like(scores)
        hot[np.arange(len(hot)), column] = 1
        own = scores[:, side * pairs : (side + 1) * pairs]
        for k in (1, 3, 10):
            assert found[f"R_{source}@{k}"].value == pytest.approx(
                top_k_accuracy_score(column, scores, k=k, labels=np.arange(2 * pairs))
            )
            assert found[f"NDCG_{source}@{k}"].value == pytest.approx(ndcg_score(hot, scores, k=k))
            assert found[f"alone_R_{source}@{k}"].value == pytest.approx(
                top_k_accuracy_score(wanted, own, k=k, labels=np.arange(pairs))
            )
            assert found[f"alone_NDCG_{source}@{k}"].value == pytest.approx(
                ndcg_score(hot[:, side * pairs : (side + 1) * pairs], own, k=k)
            )
    # One right answer: the average precision is the reciprocal rank, which the placements must give, too.
    from bias_train.metrics.functional.shared_ranking import own_pictures, rank_galleries

    own_rows = own_pictures(data.query_target, data.image_target)
    everything = np.ones(len(data.image), dtype=bool)
    placed = rank_galleries(data.text, data.image, own_rows, data.generated, [everything], [0]).placement[0]
    for w in range(2):
        hot = np.zeros_like(scores)
        hot[np.arange(len(hot)), own_rows[:, w]] = 1
        assert (1 / placed.ranks()[:, w]).mean() == pytest.approx(label_ranking_average_precision_score(hot, scores))


@pytest.mark.parametrize("mode", ["clean", "paper"])
def test_exact_identities(mode: str) -> None:
    """The reference page's identities of location correction, and of the figures at 1."""
    outcome = audit_source(vectors(pull=0.2), replace(QUICK, ks=(1, 2, 3, 5, 10), max_rank=100))
    found = {key: row.value for key, row in rows_of(outcome, "headline", "all generators", mode).items()}

    def relative(real: float, generated: float) -> float:
        return 200 * (real - generated) / (real + generated)

    def single(source: str, *ks: int) -> float:
        return float(np.mean([found[f"alone_R_{source}@{k}"] for k in ks]))

    if mode == "clean":
        # R_loc@1 = R@1 / 2, R_loc@3 = (R@1 + R@2) / 2, R_loc@5 = (R@2 + R@3) / 2, R_loc@10 = R@5.
        for k, own in ((1, (1,)), (3, (1, 2)), (5, (2, 3)), (10, (5,))):
            expected = relative(single("real", *own), single("generated", *own))
            assert found[f"location_delta_R@{k}"] == pytest.approx(expected, abs=1e-9)
    assert found["relative_delta_R@1"] == pytest.approx(found["relative_delta_NDCG@1"], abs=1e-9)
    if mode == "clean":
        for k in (1, 3):
            for measure in ("R", "NDCG"):
                difference = found[f"relative_delta_{measure}@{k}"] - found[f"location_delta_{measure}@{k}"]
                assert found[f"normalised_delta_{measure}@{k}"] == pytest.approx(difference)
    assert found["parity_R@3"] == pytest.approx(found["alone_R_real@3"] - found["alone_R_generated@3"])
    assert found["amplification@1"] == pytest.approx(found["source_share@1"] / (1 - found["source_share@1"]))


def test_a_retriever_against_itself_does_not_change() -> None:
    data = vectors(pull=0.2)
    order = np.random.default_rng(1).permutation(len(data.image))
    asked = np.random.default_rng(2).permutation(len(data.query))
    other = data.pictures(order).queries(asked)
    outcome = audit_source(data, QUICK, against=other)
    changes = [row for row in outcome.changes if not math.isnan(row.value)]
    assert changes
    assert all((row.value, row.low, row.high) == pytest.approx((0, 0, 0), abs=1e-9) for row in changes
               if row.name != "pool_share")  # fmt: skip
    quality = [row for row in outcome.equivalences if row.question.startswith("quality")]
    assert len(quality) == 2
    assert all(row.test.equivalent == (row.test.p <= 0.05) for row in quality)


def test_a_change_is_paired() -> None:
    """After minus before, with an interval that is narrower than that of two independent audits."""
    before, after = vectors(pull=0.4), vectors(pull=0.0)
    options = replace(QUICK, bootstrap=Bootstrap(400))
    outcome = audit_source(after, options, against=before)
    change = outcome.find("pair_win_rate", change=True)
    new, old = outcome.find("pair_win_rate"), audit_source(before, options).find("pair_win_rate")
    assert change is not None
    assert new is not None
    assert old is not None
    assert change.value == pytest.approx(new.value - old.value)
    assert change.value < 0
    assert change.high - change.low < (new.high - new.low) + (old.high - old.low)


def test_other_pictures_cannot_be_compared() -> None:
    data = vectors()
    with pytest.raises(RunError, match="1 of 120 are missing there, such as 'twin59'"):
        audit_source(data, QUICK, against=data.pictures(np.arange(119)))
    turned = replace(data, image_source=1 - data.image_source)
    with pytest.raises(RunError, match="another target or source"):
        audit_source(data, QUICK, against=turned)


def test_quantile_cells_divide_the_queries() -> None:
    data = vectors(pairs=80)
    outcome = audit_source(data, replace(QUICK, quantiles=4))
    for group in ("caption_length", "similarity"):
        rows = [row for row in outcome.rows if (row.group, row.name, row.k) == (group, "relative_delta_R", 1)]
        assert len(rows) == 4
        assert sum(row.count for row in rows) == len(data.query)
    # Photos are divided evenly: with three captions each, so are the queries.
    assert {row.count for row in rows} == {60}
    # A recorded similarity takes the place of the cosine.
    recorded = {f"twin{i}": float(i) for i in range(80)}
    again = audit_source(data, replace(QUICK, quantiles=2), similarity=recorded)
    names = {row.cell for row in again.rows if row.group == "similarity"}
    assert names == {"similarity 0.000 to 39.000", "similarity 40.000 to 79.000"}
    with pytest.raises(RunError, match="1 twins have no recorded similarity"):
        audit_source(data, QUICK, similarity={key: value for key, value in recorded.items() if key != "twin3"})


def codes(outcome: Outcome) -> set[str]:
    return {warning.code for warning in outcome.warnings}


def test_a_sound_audit_warns_of_nothing_but_width() -> None:
    data = vectors(pairs=300)
    options = replace(QUICK, ks=(1, 3), quantiles=0, widest=400, margin=50, ratios=())
    assert codes(audit_source(data, options)) == set()
    assert codes(audit_source(data, replace(options, widest=0.1))) == {"wide_interval"}
    assert codes(audit_source(data, replace(options, fewest_hits=10_000))) == {"few_hits"}
    # In a list that long two scores may agree by chance.
    assert codes(audit_source(data, replace(options, ks=(1, 601)))) - {"ties"} == {"k_capped"}
    assert codes(audit_source(data, replace(options, margin=1e-6))) == {"parity"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("unnormalised", {"unnormalised"}),
        ("a twin is missing", {"without_twin", "unequal_sources"}),
        ("a photo is missing", {"without_photo", "unequal_sources"}),
        ("another twin", {"several_twins", "unequal_sources"}),
        ("a picture twice", {"ties"}),
    ],
)
def test_guardrails(change: str, expected: set[str]) -> None:
    data = vectors(pairs=300)
    if change == "unnormalised":
        data = replace(data, image=data.image * 1.5)
    elif change.endswith("missing"):
        data = data.pictures(np.arange(599) if "twin" in change else np.arange(1, 600))
    elif change == "another twin":
        extra = data.pictures(np.array([599]))
        data = replace(
            data,
            image=torch.cat([data.image, unit(np.random.default_rng(0), 1, 16)]),
            image_key=(*data.image_key, "another"),
            image_target=np.r_[data.image_target, extra.image_target],
            image_source=np.r_[data.image_source, extra.image_source],
        )
    else:
        data = replace(data, image=torch.cat([data.image[:300], data.image[:1], data.image[301:]]))
    options = replace(QUICK, ks=(1, 3), quantiles=0, widest=400, margin=50, ratios=())
    outcome = audit_source(data, options)
    assert codes(outcome) == expected
    if "without_twin" in expected:
        assert outcome.counts["without_twin"] == 1
        assert outcome.counts["pairs"] == 299


def test_undefined_delta_has_a_warning_and_no_p() -> None:
    """Captions that point away from every picture of theirs find none of them at 1."""
    data = vectors(pairs=12)
    assert data.text is not None
    data = replace(data, text=-data.text)
    outcome = audit_source(data, replace(QUICK, ks=(1,), permutations=99))
    row = outcome.find("relative_delta_R", 1)
    assert row is not None
    assert math.isnan(row.value)
    assert row.p is None
    assert "undefined" in codes(outcome)
    assert outcome.document()["figures"][0]["value"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "no queries"),
        ({"image_source": np.zeros(120, dtype=np.int64)}, "no generated pictures"),
        ({"image_source": np.ones(120, dtype=np.int64)}, "no photos"),
        ({"query_target": np.full(180, 999)}, "no query has a picture"),
        ({"image": torch.zeros(120, 16)}, "all zeros"),
    ],
)
def test_what_cannot_be_audited(change: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message):
        audit_source(replace(vectors(), **change), QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"ratios": (0.0,)}, "ratios are 0"), ({"margin": 0.0}, "margin"), ({"ks": (0,)}, "cut-off"),
     ({"quantiles": -1}, "quantiles"), ({"adjust": "x"}, "holm")],
)  # fmt: skip
def test_options_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message):
        AuditOptions(**change)
