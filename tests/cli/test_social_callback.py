"""Social bias measured while a run trains: what is recorded is what the metric gives for the run's own retriever."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bias_train.callbacks.social_bias import LOGGED, SocialBias
from bias_train.cli.inputs import retriever_of_run
from bias_train.errors import RunError
from bias_train.metrics.functional.social.word_bias import word_bias
from bias_train.people.embed import embed_people, embed_words
from bias_train.records import Record
from bias_train.reports.collect import Metric, load_run
from bias_train.tracking.panels import Panel, Section, sections
from datamodules.errors import DataError
from datamodules.taxonomy import load_taxonomy, word_prompts
from datamodules.world import WorldPeople, write_people_world

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def robots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robots")
    write_people_world(folder, samples=50, people=WorldPeople())
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_records_social_bias(train: Train, robots: Path) -> None:
    given = {
        "shards": [str(robots)], "words": str(robots / "words.csv"), "words_per_category": 7, "ks": [10], "minimum": 5,
        "attributes": ["coat", "coat x hat"], "resamples": 30, "batch_size": 16,
    }  # fmt: skip
    callback = {"class_path": "bias_train.callbacks.social_bias.SocialBias", "init_args": given}
    folder = train(f"--trainer.callbacks+={json.dumps(callback)}")
    found = [row for row in rows(folder / "records.csv") if row["axis"] == "social"]
    assert {row["step"] for row in found} == {"3", "6"}
    assert {row["label"] for row in found} == {"coat", "coat x hat"}
    # A signed bias is of two groups.
    assert {row["name"] for row in found if row["label"] == "coat"} == {*LOGGED, "significant"}
    assert {row["name"] for row in found if row["label"] == "coat x hat"} == {*LOGGED, "significant"} - {"bias"}
    logged = {name for row in rows(folder / "metrics.csv") for name, value in row.items() if value}
    assert {"bias/social/excess_max_skew@10/attribute=coat", "bias/social/ndkl@10/attribute=coat_x_hat"} <= logged

    # The last ones are those of the finished retriever.
    retriever = retriever_of_run(folder)
    people = embed_people(retriever, [str(robots)])
    entries = load_taxonomy(robots / "words.csv", tiers=None).entries
    words = embed_words(retriever, word_prompts([entries[row] for row in (0, 3, 6, 10, 13, 16, 19)]))
    grouping = people.grouping("coat", 5)
    bias = word_bias(words.text, people.image, grouping.code, len(grouping), ks=(10,))
    expected = float(bias.value[:, bias.column("max_skew", 10)].mean())
    report = load_run(folder)
    record = report.find("social", Metric("max_skew", 10), 0.0, label="coat")
    assert record is not None
    assert record.value == pytest.approx(expected, abs=1e-6)
    assert record.low <= record.value <= record.high


def test_each_attribute_is_a_line_of_the_dashboard() -> None:
    names = [f"bias/social/{figure}/attribute={group}" for figure in ("ndkl@10", "bias@10") for group in ("a", "b")]
    lines = (("ndkl@10 by attribute", names[:2]), ("bias@10 by attribute", names[2:]))
    expected = tuple(Panel("line", title, tuple(shown)) for title, shown in lines)
    assert sections(names) == [Section("Bias: social", expected)]


def test_names_of_figures() -> None:
    entry = Record("social", "ndkl", 100, 0.0, "all", "race x gender", 5, 0.1, 0.0, 0.2, 3, "clean", "")
    assert entry.key == "bias/social/ndkl@100/attribute=race_x_gender"
    assert entry.is_scalar
    of_class = Record("source", "R_real", 1, 0.5, "all", "cat", 5, 0.1, 0.0, 0.2, 3, "clean", "")
    assert not of_class.is_scalar


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shards": []}, RunError, "shards is empty"),
        ({"words_per_category": 0}, RunError, "words_per_category is 0"),
        ({"ks": (0,)}, RunError, "a cut-off is at least 1"),
        ({"prompt_mode": "loud"}, DataError, "no mode 'loud'"),
        ({"categories": ("nonsense",)}, DataError, "no category 'nonsense'"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SocialBias(**({"shards": ["x"]} | options))  # type: ignore[arg-type]


def test_people_are_looked_at_before_training(robots: Path) -> None:
    for options, message in (
        ({"attributes": ["height"]}, "no attribute 'height'"),
        ({"attributes": ["coat"], "minimum": 26}, "no group has 26"),
    ):
        with pytest.raises(RunError, match=message):
            SocialBias([str(robots)], **options).setup(None, None, "fit")  # type: ignore[arg-type]


def test_words_are_spread_over_a_category() -> None:
    few = SocialBias(["x"], words_per_category=3, categories=["occupation"])
    every = SocialBias(["x"], words_per_category=None, categories=["occupation"])
    texts = [prompt.text for prompt in every.prompts]
    assert [texts.index(prompt.text) for prompt in few.prompts] == [0, round((len(texts) - 1) / 2), len(texts) - 1]
