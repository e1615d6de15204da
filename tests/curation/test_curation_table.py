"""The table of a curation against cases by hand, a kill, a second run, and the selections that are made of it."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noted_shards import NOTED, SIDE, CountingReader, CountingScorer, Noted, caption_vector, picture, unit, write_noted

from datamodules.curation.choice import Choice, Range, choose
from datamodules.curation.job import CurationJob, CurationSettings
from datamodules.curation.relative import masked_weight, net, rsa, rsc
from datamodules.curation.table import CurationTable
from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.mixed_source import MixedSourceDataModule

KNOWN = {"name": "known"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noted(tmp_path_factory.mktemp("noted") / "shards")


def curate(
    shards: Path, out: Path, reader: CountingReader | None = None, scorer: CountingScorer | None = None, **settings: Any
) -> CurationTable:
    about = KNOWN if reader is None else reader.describe()
    made = CurationSettings(about, **{"scorer": None if scorer is None else scorer.key, **settings})
    job = CurationJob([ShardIndex.load(shards)], out, made, None if reader is None else lambda: reader, scorer=scorer)
    return CurationTable.load(job.run().table)


def rows(table: CurationTable) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["key"], row["caption"]): row for row in table.table.to_pylist()}


def same(one: CurationTable, other: CurationTable) -> bool:
    """Whether two tables hold the same; NaN, which Arrow finds unequal to itself, included."""
    return bool(str(one.table.to_pylist()) == str(other.table.to_pylist()))


# Text and captions ---------------------------------------------------------------------------------------------------


def test_every_caption_has_its_row_by_hand(shards: Path, tmp_path: Path) -> None:
    found = rows(curate(shards, tmp_path, fuzzy=0.75))
    expected = {  # cotr, fuzzy
        ("a-0", 0): (1 / 3, 1 / 3),
        ("a-0", 1): (0.0, 0.0),
        ("a-1", 0): (0.0, 0.0),
        ("a-2", 0): (2 / 3, 2 / 3),  # "nite" against "night": distance 3 of 5
        ("b-0", 0): (math.nan, math.nan),
        ("b-1", -1): (math.nan, None),
        ("b-2", 0): (0.0, 0.0),
        ("c-0", 0): (1.0, 1.0),
        ("c-1", 0): (1.0, 1.0),
        ("c-2", 0): (0.0, 0.0),
        ("c-2", 1): (0.0, 0.0),
    }
    assert set(found) == set(expected)
    for place, (cotr, fuzzy) in expected.items():
        assert found[place]["cotr"] == pytest.approx(cotr, nan_ok=True)
        assert found[place]["fuzzy_cotr"] == (fuzzy if fuzzy is None else pytest.approx(fuzzy, nan_ok=True))
        assert found[place]["score_raw"] is None
    assert found["a-2", 0]["written"] == ["OPEN", "all nite"]
    assert found["a-2", 0]["spans"] == 2
    assert found["a-2", 0]["area"] == pytest.approx(2 * 24 * 8 / SIDE**2)
    assert found["b-2", 0]["problem"] == "not annotated"
    assert [place for place, row in found.items() if row["unspaced"]] == [("c-1", 0)]


def test_words_can_be_compared_as_they_are_spelt(shards: Path, tmp_path: Path) -> None:
    found = rows(curate(shards, tmp_path, normalise=False))
    assert found["a-0", 0]["cotr"] == 0.0  # STOP is not stop
    assert found["a-2", 0]["cotr"] == pytest.approx(1 / 3)  # all
    assert found["b-0", 0]["cotr"] == 0.0  # "?!" is a word at white space


def test_statistics_by_naive_loops(shards: Path, tmp_path: Path) -> None:
    table = curate(shards, tmp_path, fuzzy=0.3)
    found = table.statistics()
    by_key: dict[str, list[dict[str, Any]]] = {}
    for row in table.table.to_pylist():
        by_key.setdefault(row["key"], []).append(row)
    with_text = [key for key, its in by_key.items() if its[0]["spans"]]

    def mean(keys: list[str], column: str) -> float:
        means = []
        for key in keys:
            values = [row[column] for row in by_key[key] if row["caption"] >= 0 and not math.isnan(row[column])]
            if values:
                means.append(sum(values) / len(values))
        return sum(means) / len(means)

    every = list(by_key)
    captioned = [key for key in every if any(not math.isnan(row["cotr"]) for row in by_key[key])]
    parroted = [key for key in every if any(row["cotr"] > 0 for row in by_key[key])]
    assert (found.pictures, found.unknown, found.with_text) == (9, 0, len(with_text))
    assert found.share_with_text == pytest.approx(len(with_text) / 9)
    assert found.cotr == pytest.approx(mean(every, "cotr"))
    assert found.cotr_with_text == pytest.approx(mean(with_text, "cotr"))
    assert found.fuzzy_cotr == pytest.approx(mean(every, "fuzzy_cotr"))
    assert found.fuzzy_cotr_with_text == pytest.approx(mean(with_text, "fuzzy_cotr"))
    assert found.parroted == len(parroted) == 4
    assert found.share_parroted == pytest.approx(4 / len(captioned))
    assert found.share_parroted_with_text == pytest.approx(4 / len([key for key in captioned if key in with_text]))
    assert found.area_with_text == pytest.approx(sum(by_key[key][0]["area"] for key in with_text) / len(with_text))
    assert (found.empty_captions, found.uncaptioned, found.unspaced_captions) == (1, 2, 1)
    assert found.cotr_spaced == pytest.approx(mean([key for key in every if key != "c-1"], "cotr"))
    assert found.scores == {}
    written = json.loads((tmp_path / "corpus.json").read_text())
    assert written["statistics"]["cotr"] == pytest.approx(found.cotr)
    assert written["settings"]["fuzzy"] == 0.3


def test_shards_that_say_nothing_are_refused(tmp_path: Path) -> None:
    silent = write_noted(tmp_path / "silent", [Noted("a", ("a dog",), None)])
    with pytest.raises(DataError, match="not one sample says in its meta what is written"):
        curate(silent, tmp_path / "out")


# Scores --------------------------------------------------------------------------------------------------------------


def test_relative_scores_by_hand() -> None:
    raw, erased, control = np.array([0.3358, 0.32]), np.array([0.2974, 0.33]), np.array([0.3260, 0.30])
    np.testing.assert_allclose(rsa(raw, erased), [0.0384, -0.01], atol=1e-12)
    np.testing.assert_allclose(rsc(raw, erased), [0.0384, -0.01], atol=1e-12)
    np.testing.assert_allclose(net(rsa(raw, erased), raw, control), [0.0286, -0.03], atol=1e-12)
    np.testing.assert_allclose(
        masked_weight(np.array([0.1, 0.5]), 0.3, 0.1), [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))]
    )
    assert masked_weight(np.array([-1e6, 1e6]), 0.0, 0.01).tolist() == [0.0, 1.0]  # no overflow


def test_scores_are_cosines_of_the_right_pictures(shards: Path, tmp_path: Path) -> None:
    scorer = CountingScorer()
    found = rows(curate(shards, tmp_path, scorer=scorer))
    # Nothing written: every version is the picture itself, so both relative scores are 0 by definition.
    for place in (("a-1", 0), ("b-2", 0)):
        assert {found[place][name] for name in ("rsa", "rsc", "rsa_net", "rsc_net")} == {0.0}
        assert len({found[place][name] for name in found[place] if name.startswith("score_")}) == 1
    # Written, but in no caption: only all text counts.
    assert found["c-2", 0]["rsc"] == 0.0
    assert found["c-2", 0]["rsa"] != 0.0
    # Text in flat grey is erased, and masked, without a trace, so the scores are those of the bare square.
    bare = CountingScorer().images(picture((), 0)[None, :16, :16].copy())
    for caption in ("a stop sign", "a red sign on a pole"):
        row = found["a-0", NOTED[0].captions.index(caption)]
        text = unit(caption_vector(caption)[None])
        assert row["score_erased"] == pytest.approx(float((bare @ text.T)[0, 0]), abs=2e-3)
        assert row["score_masked"] == pytest.approx(row["score_erased"], abs=2e-3)
        assert row["rsa"] == pytest.approx(row["score_raw"] - row["score_erased"], abs=1e-6)
        assert row["rsa_net"] == pytest.approx(row["score_control_erased"] - row["score_erased"], abs=1e-6)
        assert row["rsc"] == pytest.approx(row["rsa"], abs=1e-6)  # STOP is all that is written
    assert found["b-1", -1]["score_raw"] is None


def test_views_of_the_shards_are_used(tmp_path: Path) -> None:
    views = ("erased", "control-erased")
    noted = [Noted("a", ("a stop sign",), ("STOP",), views), Noted("b", ("a dog",), ("exit",))]
    scorer = CountingScorer()
    row = rows(curate(write_noted(tmp_path / "shards", noted), tmp_path / "out", scorer=scorer))["a", 0]
    flat = np.stack([np.full((16, 16, 3), shade, dtype=np.uint8) for shade in (200, 201)])
    expected = CountingScorer().images(flat) @ unit(caption_vector("a stop sign")[None]).T
    assert row["score_erased"] == pytest.approx(float(expected[0, 0]), abs=1e-3)
    assert row["score_control_erased"] == pytest.approx(float(expected[1, 0]), abs=1e-3)
    # A stored view is read as it is: flat squares of 200 and 201.
    assert sum(bool((seen == 200).all()) for seen in scorer.seen) == 1


def test_a_control_that_cannot_be_had_is_missing(tmp_path: Path) -> None:
    alone = write_noted(tmp_path / "shards", [Noted("a", ("a stop sign",), ("STOP",)), Noted("b", ("a dog",), ())])
    row = rows(curate(alone, tmp_path / "out", scorer=CountingScorer()))["a", 0]
    assert math.isnan(row["score_control_erased"])
    assert math.isnan(row["rsa_net"])
    assert not math.isnan(row["rsa"])


# Runs that go on -----------------------------------------------------------------------------------------------------


def test_a_second_run_asks_nothing_again(shards: Path, tmp_path: Path) -> None:
    reader, scorer = CountingReader(), CountingScorer()
    first = curate(shards, tmp_path, reader, scorer, fuzzy=0.8)
    once = reader.calls + scorer.pictures + scorer.captions
    assert reader.calls == len(NOTED)
    again = curate(shards, tmp_path, reader, scorer, fuzzy=0.8)
    assert reader.calls + scorer.pictures + scorer.captions == once  # not a fifth of it: nothing
    assert same(again, first)
    # Another threshold makes new rows of what was read and scored before.
    other = curate(shards, tmp_path, reader, scorer, fuzzy=0.3)
    assert reader.calls + scorer.pictures + scorer.captions == once
    for name in first.table.column_names:
        equal = str(other.table[name].to_pylist()) == str(first.table[name].to_pylist())
        assert equal == (name != "fuzzy_cotr")


def test_the_cache_is_by_content_reader_and_retriever(shards: Path, tmp_path: Path) -> None:
    reader, scorer = CountingReader(), CountingScorer()
    curate(shards, tmp_path / "out", reader, scorer)
    # The same pictures in other shards under other names.
    renamed = [Noted(f"x-{one.key}", one.captions, one.words) for one in NOTED]
    moved = write_noted(tmp_path / "moved", renamed, samples_per_shard=9)
    curate(moved, tmp_path / "out", reader, scorer)
    assert reader.calls == len(NOTED)
    newer = CountingReader(version="2")
    curate(shards, tmp_path / "out", newer)
    assert newer.calls == len(NOTED)
    larger = CountingScorer(key="another")
    curate(shards, tmp_path / "out", reader, larger)
    assert larger.pictures > 0
    assert reader.calls == len(NOTED)


def test_a_killed_run_goes_on(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.curation.job._READ_AT_ONCE", 2)
    scorer = CountingScorer()
    whole = curate(shards, tmp_path / "whole", CountingReader(), scorer)
    killed = CountingReader(stop_after=6)  # in the last shard's first pair
    with pytest.raises(KeyboardInterrupt):
        curate(shards, tmp_path / "out", killed, CountingScorer())
    assert not (tmp_path / "out" / "table.parquet").exists()
    rest, left = CountingReader(), CountingScorer()
    assert same(curate(shards, tmp_path / "out", rest, left), whole)
    assert rest.calls == len(NOTED) - 6
    assert 0 < left.pictures < scorer.pictures


def test_a_kill_within_a_shard_loses_a_task_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.curation.job._READ_AT_ONCE", 2)
    shards = write_noted(tmp_path / "shards", samples_per_shard=9)
    with pytest.raises(KeyboardInterrupt):
        curate(shards, tmp_path / "out", CountingReader(stop_after=5))
    rest = CountingReader()
    curate(shards, tmp_path / "out", rest)
    assert rest.calls == len(NOTED) - 4


_KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from noted_shards import CountingReader
from datamodules.curation.job import CurationJob, CurationSettings
from datamodules.index import ShardIndex

class Killed(CountingReader):
    def read(self, image):
        if self.calls == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(image)

reader = Killed()
CurationJob([ShardIndex.load({shards!r})], {out!r}, CurationSettings(reader.describe()), lambda: reader).run()
"""


def test_a_process_that_is_killed_leaves_what_it_had_read(shards: Path, tmp_path: Path) -> None:
    code = _KILLED.format(tests=str(Path(__file__).parent), shards=str(shards), out=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    rest = CountingReader()
    assert same(curate(shards, tmp_path / "out", rest), curate(shards, tmp_path / "whole", CountingReader()))
    assert rest.calls == len(NOTED) - 3  # the first shard was finished, and the kill came in the second one's task


def test_several_processes_make_the_same_table(shards: Path, tmp_path: Path) -> None:
    one = curate(shards, tmp_path / "one", CountingReader(), CountingScorer())
    reader, scorer = CountingReader(), CountingScorer()
    settings = CurationSettings(reader.describe(), scorer=scorer.key)
    index = ShardIndex.load(shards)
    job = CurationJob([index], tmp_path / "two", settings, partial(CountingReader), scorer=scorer, workers=2)
    assert same(CurationTable.load(job.run().table), one)


def test_pictures_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    shards = write_noted(tmp_path / "shards")
    index = ShardIndex.load(shards)
    tar = shards / index.shards[0].name
    data = bytearray(tar.read_bytes())
    offset = int(index.offset[0])
    data[offset + 40] ^= 0xFF
    tar.write_bytes(data)
    reader, scorer = CountingReader(), CountingScorer()
    settings = CurationSettings(reader.describe(), scorer=scorer.key)
    outcome = CurationJob([index], tmp_path / "out", settings, lambda: reader, scorer=scorer).run()
    assert outcome.counts["unreadable"] == outcome.statistics.unknown == 1
    table = CurationTable.load(outcome.table)
    row = rows(table)["a-0", 0]
    assert row["problem"] == "checksum"
    assert row["score_raw"] is None
    assert choose(table, Choice()).selection.weight.tolist() == [0.0] + [1.0] * 8
    assert choose(table, Choice(unreadable="keep")).kept == 9


# Selections ----------------------------------------------------------------------------------------------------------


def kept(table: CurationTable, **choice: Any) -> list[str]:
    selection = choose(table, Choice(**choice)).selection
    return [key for key, weight in zip(selection.keys, selection.weight, strict=True) if weight > 0]


def test_filters_by_hand(shards: Path, tmp_path: Path) -> None:
    table = curate(shards, tmp_path, fuzzy=0.75)
    assert kept(table, no_text=True) == ["a-1", "b-2"]
    assert kept(table, only_text=True) == ["a-0", "a-2", "b-0", "b-1", "c-0", "c-1", "c-2"]
    # b-0 and b-1 have no CoTR; a-0 has 1/3 and 0.
    assert kept(table, cotr=Range(0, 0.3)) == ["a-0", "a-1", "b-2", "c-2"]
    assert kept(table, cotr=Range(0, 0.3), over="max") == ["a-1", "b-2", "c-2"]
    assert kept(table, cotr=Range(0, 0), over="min") == ["a-0", "a-1", "b-2", "c-2"]
    assert kept(table, cotr=Range(0.5), no_text=False) == ["a-2", "c-0", "c-1"]
    assert kept(table, fuzzy_cotr=Range(1, 1)) == ["c-0", "c-1"]
    assert kept(table, area=Range(0.16)) == ["a-2", "c-2"]
    with pytest.raises(DataError, match=r"--rsc: the table has no rsc; make it by .* a retriever"):
        kept(table, rsc=Range(None, 0.1))
    with pytest.raises(DataError, match=r"nothing is left of 9 samples .*--no-text drops 7"):
        kept(table, no_text=True, cotr=Range(0.5))


def test_selections_by_score(shards: Path, tmp_path: Path) -> None:
    table = curate(shards, tmp_path, scorer=CountingScorer())
    masked = {}
    for row in table.table.to_pylist():
        if row["score_masked"] is not None:
            masked.setdefault(row["key"], []).append(row["score_masked"])
    means = {key: float(np.mean(values)) for key, values in masked.items()}
    best = sorted(means, key=means.__getitem__, reverse=True)[:5]
    assert kept(table, masked_score_top=5 / 9) == sorted(best)
    assert kept(table, rsa=Range(None, 0.0), net_of_control=False) == sorted(
        key for key in means if np.mean([row["rsa"] for row in table.table.to_pylist() if row["key"] == key]) <= 0
    )
    made = choose(table, Choice(weight="masked", centre=0.9, temperature=0.05))
    weight = dict(zip(made.selection.keys, made.selection.weight.tolist(), strict=True))
    for key, value in means.items():
        assert weight[key] == pytest.approx(1 / (1 + math.exp(-(value - 0.9) / 0.05)), rel=1e-5)
    assert weight["b-1"] == 0.0  # no caption, no score
    assert made.kept == 8
    values = np.array([weight[key] for key in means])
    assert made.effective == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-5)
    centred = choose(table, Choice(weight="masked"))
    assert centred.selection.about["choice"]["centre"] == pytest.approx(np.median(list(means.values())))


def test_edited_captions_come_to_training(shards: Path, tmp_path: Path) -> None:
    made = choose(curate(shards, tmp_path), Choice(edit_captions=True))
    edits = {
        (made.selection.keys[row], number): text
        for row, number, text in zip(
            made.selection.row.tolist(), made.selection.number.tolist(), made.selection.text, strict=True
        )
    }
    assert edits == {("a-0", 0): "a sign", ("a-2", 0): "night"}
    assert (made.edited, made.would_be_empty) == (2, 2)  # "sale! sale! sale!" and the parking lot would be empty
    made.selection.save(tmp_path / "s.parquet")
    data = MixedSourceDataModule(
        train=[str(shards)], batch_size=3, image_size=8, seed=0, selection=str(tmp_path / "s.parquet")
    )
    plan = data.make_plan()
    sample = plan.catalogue.indexes[0].keys.arrow.to_pylist().index("a-2")
    assert plan.caption(int(plan.catalogue.anchor[sample]), sample, 0) == "night"


@pytest.mark.parametrize("text", ["", ":", "a:b", "0.5:0.1", "1 2", "0:1:2"])
def test_ranges_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="range"):
        Range.parse(text)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"no_text": True, "only_text": True}, "--only-text"),
        ({"masked_score_top": 0.0}, "--masked-score-top"),
        ({"temperature": 0.0}, "--temperature"),
        ({"centre": 0.3}, "--centre"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        Choice(**options)


def test_settings_are_checked(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="threshold"):
        CurationSettings(KNOWN, fuzzy=0.0)
    with pytest.raises(DataError, match="--workers"):
        CurationJob([ShardIndex.load(shards)], tmp_path, CurationSettings(KNOWN), workers=0)
    with pytest.raises(DataError, match="given twice"):
        CurationJob([ShardIndex.load(shards)] * 2, tmp_path, CurationSettings(KNOWN))
    with pytest.raises(DataError, match="no such table"):
        CurationTable.load(tmp_path)
    (tmp_path / "table.parquet").write_text("no")
    with pytest.raises(DataError, match="is no table of a curation"):
        CurationTable.load(tmp_path)
