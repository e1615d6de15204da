"""Remedies against reading side by side, on a retriever that is known to read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from planted_reader import SCENES, SIDE, WORDS, PlantedReader, erase, state_of, write_reading, write_shards

from bias_train.audit.text.rendering import Rendering
from bias_train.audit.text.text_set import TextSet, embed_text_set, text_set
from bias_train.errors import RunError
from bias_train.stats import Bootstrap
from bias_train.text_remedies.changed import embed_changed
from bias_train.text_remedies.compare import HEADS, OCR, PAINT, PROJECTION, TextComparisonOptions, compare
from bias_train.text_remedies.measure import answers_of, attack_and_clean
from bias_train.text_remedies.outcome import NONE, Row, TextComparison, write_comparison
from bias_train.text_remedies.parts import halves, with_questions
from bias_train.text_remedies.spelling_features import spelling_features, written_words
from bias_train.text_remedies.table import verdict
from datamodules.evaluation import EvaluationStream
from datamodules.sample import Sample
from datamodules.writer import ShardWriter
from models.text_remedies.spelling import SpellingProjection

QUICK = TextComparisonOptions(
    projection=SpellingProjection(steps=400, rate=3e-3, batch=48), bootstrap=Bootstrap(resamples=50)
)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> TextSet:
    folder = tmp_path_factory.mktemp("planted")
    return text_set(
        [str(write_shards(folder / "overlay"))],
        rendering=Rendering(WORDS),
        reading=[str(write_reading(folder / "reading"))],
    )


@pytest.fixture(scope="module")
def outcome(asked: TextSet) -> TextComparison:
    return compare(asked, PlantedReader(), finetuned=PlantedReader(0.0, fog=1.8), blur=erase, options=QUICK)


def value(outcome: TextComparison, remedy: str, name: str, k: int | None = None) -> float:
    row = outcome.find(remedy, name, k)
    assert row is not None, (remedy, name)
    return row.value


def test_what_each_remedy_does_is_known(outcome: TextComparison) -> None:
    assert value(outcome, NONE, "win_share") == 1.0
    assert value(outcome, NONE, "clean_i2t_R", 1) == 1.0
    for remedy in (OCR, PROJECTION, PAINT):
        assert value(outcome, remedy, "win_share") < 0.2, remedy
        assert value(outcome, remedy, "clean_i2t_R", 1) > 0.95, remedy
    # OCR and blur makes the picture that was there before.
    assert value(outcome, OCR, "overlay_i2t_R", 1) == 1.0
    # What cannot read does not find signs by what they say; PAINT goes no further than it must.
    assert value(outcome, NONE, "reading_i2t_R", 1) == 1.0
    assert value(outcome, OCR, "reading_i2t_R", 1) < 0.3
    assert value(outcome, PROJECTION, "NS") < 0.5 * value(outcome, NONE, "NS")


def test_the_interpolation_stops_where_it_must(outcome: TextComparison) -> None:
    # The word wins while 1.5 (1 - a) > 1, and another scene does from 1.8 a > 1 on.
    points = outcome.fitted[PAINT]["points"]
    assert [point["attack"] for point in points] == [1.0] * 4 + [0.0] * 7
    assert [point["clean"] == 1.0 for point in points] == [True] * 6 + [False] * 5
    assert outcome.fitted[PAINT]["alpha"] == 0.4


def test_changes_are_paired_with_the_retriever_as_it_is(outcome: TextComparison) -> None:
    for row in outcome.rows:
        before = next(r for r in outcome.rows if (r.remedy, r.name, r.k, r.label) == (NONE, row.name, row.k, row.label))
        if row.remedy == NONE or row.name.endswith("_floor"):
            assert math.isnan(row.change)
        elif not math.isnan(row.value):
            assert row.change == pytest.approx(row.value - before.value)
    net = outcome.find(OCR, "win_share_net")
    assert net is not None
    assert net.change_low <= net.change <= net.change_high < 0


def test_what_is_left_out_is_said(outcome: TextComparison, asked: TextSet) -> None:
    assert "convolutional tower" in outcome.skipped[HEADS].lower()
    plain = compare(asked, PlantedReader(), options=replace(QUICK, search_heads=False))
    assert plain.skipped == {
        OCR: "no OCR engine was named",
        PAINT: "no finetuned checkpoint was given",
        HEADS: "heads were not searched for",
    }
    assert plain.remedies == (NONE, PROJECTION)
    assert plain.counts["overlaid pictures, fitted"] + plain.counts["overlaid pictures, measured"] == SCENES


def test_the_retriever_stays_as_it_is(asked: TextSet) -> None:
    reader, tuned = PlantedReader(), PlantedReader(0.0)
    before, after = state_of(reader), state_of(tuned)
    compare(asked, reader, finetuned=tuned, options=replace(QUICK, alphas=(0.0, 1.0)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in reader.state_dict().items())
    assert all(torch.equal(tensor, after[name]) for name, tensor in tuned.state_dict().items())


def test_the_same_seed_gives_the_same_figures(asked: TextSet, outcome: TextComparison) -> None:
    again = compare(asked, PlantedReader(), finetuned=PlantedReader(0.0, fog=1.8), blur=erase, options=QUICK)
    assert repr(again.rows) == repr(outcome.rows)


def test_files_and_the_verdict(outcome: TextComparison, tmp_path: Path) -> None:
    write_comparison(outcome, tmp_path)
    document = json.loads((tmp_path / "comparison.json").read_text())
    assert document["fitted"][PAINT]["alpha"] == 0.4
    table = pq.read_table(tmp_path / "comparison.parquet").to_pylist()
    assert len(table) == len(outcome.rows) == len(document["figures"])
    best = outcome.best(1.0)
    assert best is not None
    assert best.remedy in verdict(outcome)
    assert "reading R@1 moves by" in verdict(outcome)


def test_a_remedy_that_costs_too_much_is_not_the_best() -> None:
    def rows(remedy: str, net: float, clean: float) -> list[Row]:
        return [
            Row(remedy, "win_share_net", None, "", net, change=net - 0.8),
            Row(remedy, "clean_t2i_R", 1, "", clean, change=clean - 0.5),
            Row(remedy, "clean_i2t_R", 1, "", 0.5, change=0.0),
        ]

    found = TextComparison({}, {}, {}, {}, {}, (*rows("dear", 0.0, 0.4), *rows("cheap", 0.3, 0.495)))
    assert found.cost("dear") == pytest.approx(10)
    best = found.best(1.0)
    assert best is not None
    assert best.remedy == "cheap"
    assert "not measured" in verdict(found)
    assert found.best(0.1) is None
    assert "no remedy" in verdict(found, 0.1)


def test_halves_share_no_scene_and_lose_none(asked: TextSet) -> None:
    fitted, measured = halves(asked, 0.5, seed=3)
    keys = [set(part.pictures.keys) for part in (fitted, measured)]
    assert not keys[0] & keys[1]
    assert keys[0] | keys[1] == set(asked.pictures.keys)
    for part in (fitted, measured):
        over = part.questions.overlays
        assert over is not None
        for row, word in enumerate(written_words(part)):
            assert part.texts[over.query[row]] == f"a photo of a {word}"
            assert part.pictures.keys[over.written[row]] == f"{part.pictures.keys[over.clean[row]]}.overlay"
        for caption, of in zip(over.caption.tolist(), over.caption_of.tolist(), strict=True):
            assert part.texts[caption].split()[-1] == part.pictures.keys[over.clean[of]][1:]
    assert halves(asked, 0.5, seed=3)[0].pictures.keys == fitted.pictures.keys
    assert halves(asked, 0.5, seed=4)[0].pictures.keys != fitted.pictures.keys
    assert len(halves(asked, 0.9, seed=3)[0].pictures) < len(fitted.pictures)


def test_renumbering_changes_no_figure(asked: TextSet) -> None:
    reader = PlantedReader()
    kept = with_questions(asked, asked.questions)
    whole, part = (answers_of(one, embed_text_set(reader, one)) for one in (asked, kept))
    assert repr([one.value for one in whole.found]) == repr([one.value for one in part.found])
    wins, clean = attack_and_clean(whole)
    assert (wins, clean) == (1.0, 1.0)


def test_features_of_the_projection_stand_row_by_row(asked: TextSet) -> None:
    reader = PlantedReader()
    fitted, _ = halves(asked)
    features = spelling_features(reader, fitted, embed_text_set(reader, fitted))
    # Each caption is its picture's, each word is the one that is written and drawn.
    torch.testing.assert_close(features.image, features.caption, rtol=0, atol=1e-6)
    torch.testing.assert_close(features.rendered, features.word, rtol=0, atol=1e-6)
    both = (features.image + 1.5 * features.word) / np.sqrt(1 + 1.5**2)
    torch.testing.assert_close(features.written, both, rtol=0, atol=1e-6)
    # Both captions of a picture are one picture's.
    assert len(features.picture.unique()) == len(features) / 2


def test_pictures_are_changed_before_they_are_embedded(asked: TextSet) -> None:
    reader = PlantedReader()
    plain, _ = embed_text_set(reader, asked)
    assert torch.equal(
        embed_changed(reader, asked, lambda image: image)[: len(asked.pictures)], plain[: len(asked.pictures)]
    )
    over = asked.questions.overlays
    assert over is not None
    blurred = embed_changed(reader, asked, erase, batch_size=7)
    assert blurred.shape == plain.shape
    torch.testing.assert_close(blurred[over.written], plain[over.clean], rtol=0, atol=1e-6)
    assert not torch.allclose(blurred[len(asked.pictures) :], plain[len(asked.pictures) :])


def test_a_large_picture_that_is_not_changed_is_embedded_as_ever(tmp_path: Path) -> None:
    # A JPEG many times the tower's size is decoded at a smaller scale where nobody has to read it.
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8).repeat(9, 0).repeat(9, 1)
    with ShardWriter(tmp_path / "large") as writer:
        for number in range(2):
            writer.write(Sample(f"l{number}", (f"scene {number}",)), np.roll(noise, 40 * number, 1))
    asked = text_set(pairs=[str(tmp_path / "large")])
    plain, same, dark = (
        torch.cat([batch["image"] for batch in EvaluationStream(asked.pictures, (SIDE, SIDE), 2, transform=change)])
        for change in (None, lambda image: image.copy(), lambda image: image // 2)
    )
    assert torch.equal(plain, same)
    assert float((dark.float() / plain.float()).mean()) == pytest.approx(0.5, abs=0.03)


def test_sets_that_cannot_be_compared_on(tmp_path: Path, asked: TextSet) -> None:
    with pytest.raises(RunError, match="too few"):
        halves(text_set([str(write_shards(tmp_path / "few", scenes=2))]))
    with pytest.raises(RunError, match="--held-out is 1"):
        halves(asked, 1.0)
    with pytest.raises(RunError, match="no picture with a wrong word"):
        halves(text_set(pairs=[str(tmp_path / "few")]))
    with pytest.raises(RunError, match="no picture with a wrong word"):
        written_words(text_set(pairs=[str(tmp_path / "few")]))
