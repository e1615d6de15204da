"""Source-bias figures against brute force, identities and degenerate cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from naive_rankings import naive_source, random_case

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.source import source_bias, source_bias_change
from bias_train.metrics.functional.source_columns import PAPER_IDEAL
from bias_train.stats import Bootstrap, resample_counts


def by_key(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.key: figure for figure in figures if figure.label is None}


def assert_alike(figures: list[Figure], reference: dict[str, float]) -> None:
    found = by_key(figures)
    for key, value in reference.items():
        assert found[key].value == pytest.approx(value, abs=1e-9, nan_ok=True), key
    # What the reference lacks is undefined, not invented.
    assert all(math.isnan(f.value) for key, f in found.items() if key not in reference)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("mode", ["clean", "paper"])
def test_pairs_against_brute_force(seed: int, mode: str) -> None:
    case = random_case(seed)
    figures = source_bias(
        *case.arguments(),
        ks=(1, 2, 5, 40),
        precision_ks=(1, 2, 5, 40),
        mode=mode,
        relevance="pair",
        query_slot=case.query_slot,
        max_rank=4,
    )
    assert_alike(figures, naive_source(case, [1, 2, 5, 40], mode, pairs=True, max_rank=4))


@pytest.mark.parametrize("seed", range(25))
def test_labels_against_brute_force(seed: int) -> None:
    case = random_case(seed, label=True)
    figures = source_bias(*case.arguments(), ks=(1, 3, 40), precision_ks=(1, 3, 40), relevance="label")
    assert_alike(figures, naive_source(case, [1, 3, 40], "clean", pairs=False))


@pytest.mark.parametrize("seed", range(3))
def test_chunks_and_order_change_nothing(seed: int) -> None:
    case = random_case(seed)
    whole = source_bias(*case.arguments(), bootstrap=Bootstrap(50))
    # By their text, in which NaN equals NaN.
    assert repr(source_bias(*case.arguments(), bootstrap=Bootstrap(50), chunk_size=1)) == repr(whole)
    order = torch.randperm(len(case.image), generator=torch.Generator().manual_seed(seed))
    text, image, query_target, image_target, image_source = case.arguments()
    shuffled = source_bias(
        text, image[order], query_target, image_target[order], image_source[order], bootstrap=Bootstrap(50)
    )
    for a, b in zip(whole, shuffled, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12, nan_ok=True)


def test_copies_of_a_picture_tie_whatever_their_place() -> None:
    """The same embedding as photo and as twin, at float32 precision, is a tie in every chunk and column."""
    generator = torch.Generator().manual_seed(0)
    photos = torch.nn.functional.normalize(torch.randn(301, 67, generator=generator), dim=1)
    text = torch.nn.functional.normalize(photos + torch.randn(301, 67, generator=generator), dim=1)
    target, source = torch.arange(301), torch.zeros(301, dtype=torch.int64)
    for chunk_size in (1, 7, None):
        found = by_key(
            source_bias(
                text,
                torch.cat([photos, photos]),
                target,
                torch.cat([target, target]),
                torch.cat([source, source + 1]),
                chunk_size=chunk_size,
            )
        )
        assert found["pair_win_rate"].value == 0.5
        assert found["rank_difference"].value == 0.0
        assert found["relative_delta_R@1"].value == pytest.approx(0.0, abs=1e-9)
        assert "301 queries have some" in found["relative_delta_R@1"].note


def paired(seed: int = 0, pairs: int = 60, captions: int = 3, pull: float = 0.1) -> dict[str, torch.Tensor]:
    """Unit embeddings of pairs whose twins lie a little nearer to the captions."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(pairs, 24, generator=generator)

    def view(noise: float, times: int = 1) -> torch.Tensor:
        rows = scene.repeat_interleave(times, dim=0)
        return torch.nn.functional.normalize(rows + noise * torch.randn(rows.shape, generator=generator), dim=1)

    target = torch.arange(pairs)
    return {
        "text": view(1.2, captions),
        "image": torch.cat([view(0.8), view(0.8 - pull)]),
        "query_target": target.repeat_interleave(captions),
        "image_target": torch.cat([target, target]),
        "image_source": torch.cat([torch.zeros(pairs, dtype=torch.int64), torch.ones(pairs, dtype=torch.int64)]),
        "query_slot": torch.arange(captions).repeat(pairs),
    }


@pytest.mark.parametrize("mode", ["clean", "paper"])
def test_identities(mode: str) -> None:
    data = paired()
    found = by_key(source_bias(**data, mode=mode, ks=(1, 3, 5), precision_ks=(1, 5)))
    assert found["relative_delta_R@1"].value == pytest.approx(found["relative_delta_NDCG@1"].value, abs=1e-9)
    # Both measures only differ by a factor that the ratio cancels.
    assert found["relative_delta_P@5"].value == pytest.approx(found["relative_delta_R@5"].value, abs=1e-9)
    ideal = PAPER_IDEAL if mode == "paper" else 1.0
    assert found["NDCG_real@1"].value == pytest.approx(found["R_real@1"].value / ideal)
    # A balanced pool: real minus generated share is 1 - 2 share, and odds amplify by share over its complement.
    share = found["source_share@1"].value
    assert found["delta_ndsr@1"].value == pytest.approx(1 - 2 * share)
    assert found["amplification@1"].value == pytest.approx(share / (1 - share))
    if mode == "clean":
        real, generated = found["R_real@1"].value, found["R_generated@1"].value
        part = generated / (real + generated)
        assert found["relative_delta_R@1"].value == pytest.approx(200 * (1 - 2 * part))


def test_swapping_the_sources_turns_every_sign() -> None:
    data = paired()
    there = by_key(source_bias(**data))
    back = by_key(source_bias(**{**data, "image_source": 1 - data["image_source"]}))
    for key in ("relative_delta_R@1", "relative_delta_NDCG@5", "rank_difference", "delta_ndsr@3"):
        assert there[key].value == pytest.approx(-back[key].value, abs=1e-9)
    assert there["pair_win_rate"].value == pytest.approx(1 - back["pair_win_rate"].value)
    assert there["amplification@3"].value == pytest.approx(1 / back["amplification@3"].value)
    assert there["relative_delta_R@1"].value < 0 < there["rank_difference"].value


@pytest.mark.parametrize("seed", range(4))
def test_picture_resamples_equal_galleries_written_out(seed: int) -> None:
    """Cumulated counts give what ranking each resampled gallery anew gives, ties between copies included."""
    bootstrap = Bootstrap(resamples=30, seed=seed, level=0.8)
    case = random_case(seed + 100, label=True, targets=4)
    options = {"ks": (1, 2, 4), "precision_ks": (3,), "relevance": "label"}
    found = source_bias(*case.arguments(), **options, bootstrap=bootstrap, target_names=[str(i) for i in range(4)])
    codes = case.image_target * 10 + case.image_source
    counts = torch.from_numpy(np.concatenate(list(resample_counts(len(codes), bootstrap, codes.numpy()))))
    draws: dict[tuple[str, str | None], list[float]] = {}
    for drawn in counts:
        # Each stratum keeps its size.
        assert all(int(drawn[codes == code].sum()) == int((codes == code).sum()) for code in codes.unique())
        image, target, source = (
            t.repeat_interleave(drawn, dim=0) for t in (case.image, case.image_target, case.image_source)
        )
        again = source_bias(case.text, image, case.query_target, target, source, **options,
                            target_names=[str(i) for i in range(4)])  # fmt: skip
        for figure in again:
            draws.setdefault((figure.key, figure.label), []).append(figure.value)
    for figure in found:
        values = np.array(draws[figure.key, figure.label])
        values = values[~np.isnan(values)]
        if math.isnan(figure.value) or len(values) == 0:
            continue
        low, high = np.quantile(values, (0.1, 0.9), method="inverted_cdf")
        # Sums differ in their last bit, so that an order statistic may be a neighbour of equal value.
        assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-9), figure


def test_cluster_resamples_equal_queries_written_out() -> None:
    """A target drawn twice brings all of its captions twice, against the same gallery."""
    bootstrap = Bootstrap(resamples=40, seed=3, level=0.8)
    data = paired(pairs=12)
    found = by_key(source_bias(**data, mode="paper", bootstrap=bootstrap))
    draws: dict[str, list[float]] = {}
    for drawn in torch.from_numpy(np.concatenate(list(resample_counts(12, bootstrap)))):
        times = drawn[data["query_target"]]
        query = {name: data[name].repeat_interleave(times, dim=0) for name in ("text", "query_target", "query_slot")}
        for key, figure in by_key(source_bias(**{**data, **query}, mode="paper")).items():
            draws.setdefault(key, []).append(figure.value)
    for key, figure in found.items():
        low, high = np.nanquantile(draws[key], (0.1, 0.9), method="inverted_cdf")
        assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-9), key


def test_change_is_paired() -> None:
    """A model against itself has no change at all; against another one the interval is narrower than unpaired."""
    before, after = paired(pull=0.1), paired(pull=0.3)
    ids = {name: before[name] for name in ("query_target", "image_target", "image_source")}
    bootstrap = Bootstrap(400)
    same = source_bias_change(
        (before["text"], before["image"]), (before["text"], before["image"]), **ids, bootstrap=bootstrap
    )
    assert all((f.value, f.low, f.high) == (0.0, 0.0, 0.0) for f in same)
    change = by_key(
        source_bias_change(
            (before["text"], before["image"]), (after["text"], after["image"]), **ids, bootstrap=bootstrap
        )
    )["relative_delta_R@1"]
    one, two = (by_key(source_bias(**side, bootstrap=bootstrap))["relative_delta_R@1"] for side in (before, after))
    assert change.value == pytest.approx(two.value - one.value)
    assert change.high - change.low < (one.high - one.low) + (two.high - two.low)


def test_classes_get_figures_of_their_own() -> None:
    case = random_case(1, label=True)
    names = ["airplane", "frog", "truck"]
    found = source_bias(
        *case.arguments(), ks=(2,), precision_ks=(2,), relevance="label", target_names=names, bootstrap=Bootstrap(20)
    )
    for target in range(3):
        rows = case.query_target == target
        alone = source_bias(
            case.text[rows], case.image, case.query_target[rows], case.image_target, case.image_source,
            ks=(2,), precision_ks=(2,), relevance="label", bootstrap=Bootstrap(20),
        )  # fmt: skip
        own = {f.key: f for f in found if f.label == names[target]}
        for figure in alone:
            if figure.key in own:
                assert own[figure.key].value == pytest.approx(figure.value, nan_ok=True)
                assert own[figure.key].low == pytest.approx(figure.low, nan_ok=True)


class TestDegenerate:
    """Section by section, what cannot be measured says so."""

    eye = torch.eye(4)

    def test_no_source_has_a_hit(self) -> None:
        image = torch.cat([self.eye[[1, 0]], self.eye[[1, 0]], self.eye[:2] * 2])
        target, source = torch.tensor([0, 1, 0, 1, 7, 7]), torch.tensor([0, 0, 1, 1, 0, 1])
        found = by_key(source_bias(self.eye[:2], image, torch.arange(2), target, source, ks=(1,), max_rank=1))
        assert math.isnan(found["relative_delta_R@1"].value)
        assert "no source has a hit" in found["relative_delta_R@1"].note
        assert math.isnan(found["rank_difference"].value)
        assert found["rank_difference"].count == 0

    def test_only_one_source_has_hits(self) -> None:
        image = torch.cat([self.eye[:2] * 0.5, self.eye[:2]])
        target, source = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
        found = by_key(
            source_bias(self.eye[:2], image, torch.arange(2), target, source, ks=(1, 9), bootstrap=Bootstrap(20))
        )
        assert (found["relative_delta_R@1"].value, found["relative_delta_R@1"].low) == (-200.0, -200.0)
        assert "only one source has hits" in found["relative_delta_R@1"].note
        assert found["amplification@1"].value == math.inf
        assert "k capped at the 4 pictures" in found["R_real@9"].note

    @pytest.mark.parametrize("code", [0, 1])
    def test_a_gallery_of_one_source(self, code: int) -> None:
        source = torch.full((4,), code)
        found = by_key(source_bias(self.eye, self.eye, torch.arange(4), torch.arange(4), source, ks=(1,)))
        assert not any(key.startswith(("relative_delta", "R_", "pair_win")) for key in found)
        assert found["source_share@1"].value == found["pool_share"].value == code
        assert math.isnan(found["amplification@1"].value)
        assert "one source only" in found["amplification@1"].note

    def test_targets_without_a_twin_are_left_out_of_pair_figures_only(self) -> None:
        image = torch.cat([self.eye, self.eye[:1] * 2])
        target, source = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([0, 0, 0, 0, 1])
        found = by_key(source_bias(self.eye, image, torch.arange(4), target, source, ks=(1,)))
        assert (found["pair_win_rate"].count, found["source_share@1"].count) == (1, 4)
        assert "3 queries without a pair left out" in found["pair_win_rate"].note
        assert f"null value {1 - 2 / 5:.4g}" in found["delta_ndsr@1"].note

    def test_one_cluster_has_no_interval(self) -> None:
        image, source = self.eye[:2], torch.tensor([0, 1])
        zeros = torch.zeros(2, dtype=torch.int64)
        found = source_bias(self.eye[:1], image, zeros[:1], zeros, source, bootstrap=Bootstrap(20))
        assert all(math.isnan(f.low) and math.isnan(f.high) for f in found)

    def test_unnormalised_scores_are_recorded(self) -> None:
        data = paired(pairs=5)
        assert "unnormalised" not in source_bias(**data)[0].note
        assert "unnormalised" in source_bias(**{**data, "text": data["text"] * 3})[0].note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": torch.tensor([[1.0, 0.0], [float("nan"), 1.0]])}, "text row 1 is not finite"),
        ({"image": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}, "image row 1 is all zeros"),
        ({"image": torch.eye(3)}, "image is 3 wide, but text is 2 wide"),
        ({"image_source": torch.zeros(3, dtype=torch.int64)}, "image_source has shape"),
        ({"query_target": torch.zeros(2)}, "query_target must hold integers"),
        ({"image_source": torch.tensor([0, -1])}, "negative code"),
        ({"ks": (0,)}, "ks holds 0"),
        ({"mode": "both"}, "mode is 'both'"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"mode": "paper", "query_target": torch.tensor([0, 0])}, "pass query_slot"),
        ({"mode": "paper", "relevance": "label"}, "use mode 'clean' with labels"),
        ({"target_names": ["a"], "relevance": "label"}, "target_names has 1 names"),
        ({"target_names": ["a", "b"]}, "need label relevance"),
    ],
)
def test_bad_input_is_one_clear_error(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "text": torch.eye(2),
        "image": torch.eye(2),
        "query_target": torch.arange(2),
        "image_target": torch.arange(2),
        "image_source": torch.arange(2),
    }
    with pytest.raises(ValueError, match=message):
        source_bias(**{**arguments, **change})
