"""Overlays and typographic attacks against loops over every order of tied items, and against what must hold."""

from __future__ import annotations

import math

import naive_text
import numpy as np
import pytest
import torch

from bias_train.metrics.functional.text.overlay import overlay_robustness
from bias_train.metrics.functional.text.pair_retrieval import pair_hits, pair_retrieval, random_hits
from bias_train.metrics.functional.text.typographic import typographic_attack
from bias_train.stats import Bootstrap


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    """Small whole numbers, so that many scores tie, and none all zeros."""
    made = np.random.default_rng(seed).integers(-2, 3, size=shape).astype(np.float32)
    made[(made == 0).all(axis=-1), 0] = 1.0
    return torch.from_numpy(made)


def overlaid(seed: int = 0) -> dict[str, torch.Tensor]:
    """Four pictures, the last two of which show the same, with two, one, two and one captions."""
    return {
        "clean": vectors(4, 3, seed=seed), "written": vectors(4, 3, seed=seed + 10),
        "query": vectors(4, 3, seed=seed + 20), "caption": vectors(6, 3, seed=seed + 30),
        "caption_of": torch.tensor([0, 0, 1, 2, 2, 3]), "target": torch.tensor([5, 7, 9, 9]),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_overlays_agree_with_loops(seed: int) -> None:
    given = overlaid(seed)
    found = {(one.name, one.k): one.value for one in overlay_robustness(**given, ks=(1, 2, 9))}
    rows = {name: part.numpy() for name, part in given.items()}
    shown = rows["target"][rows["caption_of"]]
    shares = {}
    for name, pictures in (("win_share", rows["written"]), ("win_share_clean", rows["clean"])):
        shares[name] = np.mean([
            naive_text.wins(pictures[i], rows["query"][i], rows["caption"][c])
            for c, i in enumerate(rows["caption_of"])
        ])  # fmt: skip
        assert found[name, None] == pytest.approx(shares[name])
    assert found["win_share_net", None] == pytest.approx(shares["win_share"] - shares["win_share_clean"])
    assert not {"win_share_other", "win_share_read"} & {name for name, _ in found}
    has = torch.tensor([True, seed % 2 == 0, True, False])
    asked = vectors(4, 3, seed=seed + 40)
    found |= {
        (one.name, one.k): one.value for one in overlay_robustness(**given, ks=(1, 2, 9), other=asked, has_other=has)
    }
    both = [
        [naive_text.wins(rows["written"][i], query[i], rows["caption"][c]) for query in (rows["query"], asked.numpy())]
        for c, i in enumerate(rows["caption_of"])
        if has[i]
    ]
    word, other = np.mean(both, axis=0)
    assert found["win_share_other", None] == pytest.approx(other)
    assert found["win_share_read", None] == pytest.approx(word - other)
    for k in (1, 2, 9):
        recall: dict[str, float] = {}
        for form, pictures in (("overlay_clean", rows["clean"]), ("overlay", rows["written"])):
            scores = pictures @ rows["caption"].T
            t2i = [naive_text.hit(scores[:, c], rows["target"] == shown[c], min(k, 4)) for c in range(6)]
            i2t = [naive_text.hit(scores[i], shown == rows["target"][i], min(k, 6)) for i in range(4)]
            for way, values in (("t2i", t2i), ("i2t", i2t)):
                recall[f"{form}_{way}"] = float(np.mean(values))
                assert found[f"{form}_{way}_R", k] == pytest.approx(np.mean(values)), (form, way, k)
        for way in ("t2i", "i2t"):
            drop = recall[f"overlay_clean_{way}"] - recall[f"overlay_{way}"]
            assert found[f"overlay_{way}_drop", k] == pytest.approx(drop)
        floor = np.mean([naive_text.random_hit(int((rows["target"] == one).sum()), 4, min(k, 4)) for one in shown])
        assert found["overlay_t2i_R_floor", k] == pytest.approx(floor)


def test_a_reader_and_a_viewer() -> None:
    """Dimensions 0 to 2 are things, 3 to 5 words. A reader's overlaid picture is its word."""
    things, words = torch.eye(6)[:3], torch.eye(6)[3:]
    rest = {"query": words, "caption": things, "caption_of": torch.arange(3), "target": torch.arange(3)}
    blind = {one.name: one.value for one in overlay_robustness(things, things, **rest)}
    assert (blind["win_share"], blind["win_share_net"], blind["overlay_t2i_drop"]) == (0.0, 0.0, 0.0)
    reader = {one.name: one.value for one in overlay_robustness(things, words, **rest)}
    assert (reader["win_share"], reader["win_share_net"], reader["overlay_clean_t2i_R"]) == (1.0, 1.0, 1.0)
    assert reader["overlay_t2i_R"] == pytest.approx(1 / 3)  # all scores tie: one of three, in expectation
    assert reader["overlay_i2t_drop"] == pytest.approx(2 / 3)
    # One that sees that something is written, and not what: any word wins, and none is read.
    writing = torch.cat([torch.zeros(3, 3), torch.ones(3, 3)], dim=1)
    one = {one.name: one.value for one in overlay_robustness(things, writing, **rest, other=words.roll(1, 0))}
    assert (one["win_share"], one["win_share_net"], one["win_share_other"], one["win_share_read"]) == (1, 1, 1, 0)
    letters = {one.name: one.value for one in overlay_robustness(things, words, **rest, other=words.roll(1, 0))}
    assert (letters["win_share_other"], letters["win_share_read"]) == (0.5, 0.5)  # ties with the captions
    # A query that is a caption's own text ties with it: one half, whatever the picture.
    same = {one.name: one.value for one in overlay_robustness(things, words, **(rest | {"query": things}))}
    assert (same["win_share"], same["win_share_clean"], same["win_share_floor"]) == (0.5, 0.5, 0.5)


def test_the_drop_is_paired() -> None:
    """What clean and overlaid pictures share does not widen the interval of their difference."""
    generator = torch.Generator().manual_seed(0)
    clean, caption = (torch.randn(60, 4, generator=generator) for _ in range(2))
    caption = clean + caption
    given = {"query": caption.flip(0), "caption": caption, "caption_of": torch.arange(60), "target": torch.arange(60)}
    bootstrap = Bootstrap(200)
    found = {one.key: one for one in (each.figure(bootstrap) for each in
             overlay_robustness(clean, clean, **given, bootstrap=bootstrap))}  # fmt: skip
    drop, recall = found["overlay_t2i_drop@1"], found["overlay_t2i_R@1"]
    assert (drop.low, drop.value, drop.high) == (0.0, 0.0, 0.0)
    assert recall.low < recall.value < recall.high
    assert (drop.count, found["win_share"].count) == (60, 60)


def test_captions_of_one_picture_are_resampled_together() -> None:
    """Twice the same caption is no further evidence: the interval stays as wide."""
    generator = torch.Generator().manual_seed(1)
    clean, written, query, caption = (torch.randn(40, 4, generator=generator) for _ in range(4))
    bootstrap, once = Bootstrap(400), torch.arange(40)
    rest = {"target": once, "bootstrap": bootstrap}
    one = overlay_robustness(clean, written, query, caption, once, **rest)[0].figure(bootstrap)
    two = overlay_robustness(clean, written, query, caption.repeat(2, 1), once.repeat(2), **rest)[0].figure(bootstrap)
    assert (one.name, one.value, one.low, one.high) == (two.name, two.value, two.low, two.high)


@pytest.mark.parametrize("seed", range(4))
def test_attacks_agree_with_loops(seed: int) -> None:
    attacked, clean, prompt = vectors(6, 3, seed=seed), vectors(6, 3, seed=seed + 10), vectors(4, 3, seed=seed + 20)
    label, word = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1, 0, 3, -1, 2, -1])
    has = torch.tensor([True, False, True, True, True, False])
    found = {
        one.name: one
        for one in typographic_attack(attacked, prompt, label, word, torch.arange(6), clean=clean, has_clean=has)
    }
    rows = range(6)
    accuracy, success, clean_accuracy, clean_success = (
        [
            naive_text.recognised(pictures[i].numpy(), prompt.numpy(), int(wanted[i]))
            if wanted[i] >= 0 and (pictures is attacked or has[i]) else math.nan
            for i in rows
        ]
        for pictures in (attacked, clean) for wanted in (label, word)
    )  # fmt: skip
    assert found["attack_accuracy"].value == pytest.approx(np.mean(accuracy))
    assert found["attack_success"].value == pytest.approx(np.nanmean(success))
    assert found["attack_success"].count == 4
    assert found["attack_accuracy_clean"].value == pytest.approx(np.nanmean(clean_accuracy))
    assert found["attack_accuracy_clean"].count == 4
    assert found["attack_success_clean"].value == pytest.approx(np.nanmean(clean_success))
    drop = np.array(clean_accuracy) - np.array(accuracy)
    assert found["attack_accuracy_drop"].value == pytest.approx(np.nanmean(drop))
    net = np.array(success) - np.array(clean_success)
    assert found["attack_success_net"].value == pytest.approx(np.nanmean(net))
    assert found["attack_floor"].value == 0.25


def test_attacks_without_clean_pictures() -> None:
    found = typographic_attack(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]),
                               torch.arange(3))  # fmt: skip
    assert [one.name for one in found] == ["attack_accuracy", "attack_success", "attack_floor"]
    assert [one.value for one in found] == pytest.approx([1.0, 0.0, 1 / 3])
    fooled = typographic_attack(torch.eye(3), torch.eye(3), torch.tensor([1, 2, 0]), torch.tensor([0, 1, 2]),
                                torch.arange(3))  # fmt: skip
    assert [one.value for one in fooled][:2] == [0.0, 1.0]


def test_retrieval_and_its_floor() -> None:
    image, text = vectors(4, 3, seed=1), vectors(5, 3, seed=2)
    of_image, of_text = torch.tensor([0, 1, 1, 8]), torch.tensor([0, 1, 1, 3, 0])
    hits = pair_hits(image, text, of_image, of_text, ks=(1, 3))
    scores = (image @ text.T).numpy()
    for place, k in enumerate((1, 3)):
        for c in range(5):
            relevant = (of_image == of_text[c]).numpy()
            np.testing.assert_allclose(hits.values["t2i"][c, place], naive_text.hit(scores[:, c], relevant, k))
            wanted = naive_text.random_hit(int(relevant.sum()), 4, k) if relevant.any() else math.nan
            np.testing.assert_allclose(hits.floor["t2i"][c, place], wanted)
        for i in range(4):
            relevant = (of_text == of_image[i]).numpy()
            np.testing.assert_allclose(hits.values["i2t"][i, place], naive_text.hit(scores[i], relevant, k))
    figures = {one.name: one for one in pair_retrieval("reading", image, text, of_image, of_text, ks=(1,))}
    assert figures["reading_t2i_R"].count == 4
    assert "1 queries without an answer left out" in figures["reading_t2i_R"].note
    assert set(figures) == {f"reading_{way}_R{end}" for way in ("t2i", "i2t") for end in ("", "_floor")}
    assert random_hits(np.array([3]), 3, (1, 7)).tolist() == [[1.0, 1.0]]
    assert random_hits(np.array([5]), 25_000, (10,))[0, 0] == pytest.approx(1 - (1 - 5 / 25_000) ** 10, rel=1e-3)


def test_errors() -> None:
    given = overlaid()
    for change, message in (
        ({"written": given["written"][:2]}, "4 pictures have 2 overlays and 4 queries"),
        ({"caption_of": given["caption_of"] + 1}, "caption_of must lie in 0 to 3"),
        ({"target": given["target"][:2]}, "target has shape"),
        ({"query": given["query"] * 0}, "query row 0 is all zeros"),
    ):
        with pytest.raises(ValueError, match=message):
            overlay_robustness(**(given | change))
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="label and word must lie in 0 to 1"):
        typographic_attack(torch.eye(2)[:1], torch.eye(2), one, one + 2, one)
    with pytest.raises(ValueError, match="picture 0 has its own label written on it"):
        typographic_attack(torch.eye(2)[:1], torch.eye(2), one, one, one)
