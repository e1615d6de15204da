"""What a report says: reading run folders, choosing figures, pooling seeds, comparing arms."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from report_runs import row, write_records

from bias_train.metrics.figure import Figure
from bias_train.records import record
from bias_train.reports.collect import Metric, find_runs, load_run, load_runs
from bias_train.reports.errors import ReportError
from bias_train.reports.options import ReportOptions
from bias_train.reports.study import Study, pool

Maker = Callable[..., Path]


def values(folder: Path, name: str, **conditions: object) -> list[float]:
    """Read values from records.csv with nothing of the report's own code."""
    wanted = {"axis": "source", "ratio": "0.5", "generator": "all", "label": "", "step": "400"}
    wanted |= {key: str(value) for key, value in conditions.items()}
    with (folder / "records.csv").open() as stream:
        rows = [line for line in csv.DictReader(stream) if line["name"] == name]
    return [float(line["value"]) for line in rows if all(line[key] == value for key, value in wanted.items())]


def test_runs_are_found_in_and_below_folders(sweep_folder: Path, run_maker: Maker, tmp_path: Path) -> None:
    alone = run_maker("alone")
    assert find_runs([alone]) == [alone]
    assert len(find_runs([sweep_folder, alone, sweep_folder])) == 17
    ten, two = run_maker("many/run10"), run_maker("many/run2")
    assert find_runs([tmp_path / "many"]) == [two, ten]
    with pytest.raises(ReportError, match="no folder"):
        find_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReportError, match="holds no run"):
        find_runs([tmp_path / "empty"])


def test_a_run_is_read_whole(run_maker: Maker) -> None:
    run = load_run(run_maker("run", share=0.2, loss="hinge", seed=3))
    assert (run.share, run.seed, run.done) == (0.2, 3, True)
    assert run.loss_terms == {"contrastive": "InfoNCE", "debias": "RankHinge"}
    assert run.problems == ()
    assert len(run.examples) == 6
    assert len(run.curves["train/debias/gradient_share"].steps) == 9
    latest = run.find("source", Metric("relative_delta_P", 100), 0.5)
    assert latest is not None
    assert [latest.value] == values(run.folder, "relative_delta_P")
    history = run.history("source", Metric("relative_delta_P", 100), 0.5)
    assert history.steps == [0, 200, 400]


def test_a_repeated_row_counts_once_and_a_torn_line_not_at_all(run_maker: Maker) -> None:
    folder = run_maker("run")
    with (folder / "records.csv").open("a") as stream:
        stream.write("source,relative_delta_P,100,0.5,all,,400,-7.5,-8,-7,9,clean,again\n")
        stream.write("source,relative_de")
    run = load_run(folder)
    latest = run.find("source", Metric("relative_delta_P", 100), 0.5)
    assert latest is not None
    assert latest.value == -7.5
    assert run.problems == ("1 unreadable lines of records.csv are left out",)


def test_the_clean_mode_is_preferred(run_maker: Maker) -> None:
    folder = run_maker("run")
    write_records(
        folder,
        [row("source", "relative_delta_R", -1.0, k=1), row("source", "relative_delta_R", -2.0, k=1, mode="paper")],
    )
    assert Study([load_run(folder)]).rows()[0].bias.value == -1.0  # type: ignore[union-attr]


def test_figures_are_chosen_by_what_was_recorded(run_maker: Maker) -> None:
    label, pair = load_run(run_maker("label")), load_run(run_maker("pair", relevance="pair"))
    assert (str(Study([label]).bias), str(Study([label]).retrieval)) == ("relative_delta_P@100", "class_accuracy")
    assert (str(Study([pair]).bias), str(Study([pair]).retrieval)) == ("relative_delta_R@1", "t2i_R@10")
    chosen = Study([pair], ReportOptions(retrieval="t2i_R@5", gallery_ratio=0.8))
    assert (str(chosen.retrieval), chosen.gallery_ratio) == ("t2i_R@5", 0.8)
    with pytest.raises(ReportError, match="no run recorded the source figure x; there are relative_delta_R@1"):
        Study([pair], ReportOptions(metric="x"))
    nearest = Study([pair], ReportOptions(gallery_ratio=0.75))
    assert nearest.gallery_ratio == 0.8
    assert "read at 0.8" in nearest.notes[0]


def test_arms_group_all_but_share_and_seed(sweep_folder: Path, run_maker: Maker) -> None:
    study = Study(load_runs([sweep_folder]))
    assert [(arm.label, len(arm.runs)) for arm in study.arms] == [("none", 8), ("hinge", 8)]
    assert study.reference is study.arms[0]
    assert study.focus_share == 0.5

    loose = [run_maker(f"a{seed}", sweep=None, seed=seed) for seed in (0, 1)]
    loose += [run_maker("b", sweep=None, loss="hinge"), run_maker("c", sweep=None, share=0.2)]
    arms = Study(load_runs(loose)).arms
    assert [(arm.label, len(arm.runs)) for arm in arms] == [("InfoNCE", 3), ("InfoNCE + RankHinge", 1)]


def test_runs_that_differ_in_anything_else_are_never_averaged(run_maker: Maker) -> None:
    first, second = run_maker("first", sweep=None), run_maker("second", sweep=None, seed=1)
    config = second / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 400", "max_steps: 800"))
    assert [arm.label for arm in Study(load_runs([first, second])).arms] == ["InfoNCE", "InfoNCE (2)"]


def test_cells_that_a_later_version_of_the_sweep_replaced_are_left_out(run_maker: Maker) -> None:
    old, new, other = run_maker("old", seed=1), run_maker("new", seed=1), run_maker("other", seed=0)
    os.utime(old / "status.json", (1, 1))
    study = Study(load_runs([old, new, other]))
    assert [run.name for run in study.runs] == ["new", "other"]
    assert study.notes[0] == "old is left out: new has the same coordinates in the sweep and is newer."


def test_rows_hold_means_over_seeds_and_compare_with_the_reference(sweep_folder: Path) -> None:
    study = Study(load_runs([sweep_folder]))
    rows = {(line.share, line.arm): line for line in study.rows()}
    assert list(rows) == [(share, arm) for share in (0.0, 0.2, 0.5, 0.8) for arm in ("none", "hinge")]

    def mean(share: float, loss: str, name: str, **conditions: object) -> float:
        folders = sweep_folder.glob(f"share={share:g}_loss={loss}_seed=*")
        return float(np.mean([values(folder, name, **conditions) for folder in folders]))

    for (share, loss), line in rows.items():
        assert line.seeds == 2
        assert line.bias is not None
        assert line.retrieval is not None
        assert line.bias.value == pytest.approx(mean(share or 0.0, loss, "relative_delta_P"))
        photos = mean(share or 0.0, loss, "class_accuracy", axis="retrieval", ratio=0.0)
        assert line.retrieval.value == pytest.approx(photos)

    start, fallen = mean(0, "none", "relative_delta_P"), mean(0.5, "none", "relative_delta_P")
    treated = mean(0.5, "hinge", "relative_delta_P")
    line = rows[0.5, "hinge"]
    assert line.remaining == pytest.approx(abs(treated) / abs(fallen))
    assert line.taken_back == pytest.approx((treated - fallen) / (start - fallen))
    assert rows[0.0, "hinge"].taken_back is None
    assert rows[0.5, "none"].remaining is None
    assert study.best_arm() is study.arms[1]


def test_nothing_is_taken_back_of_a_fall_within_its_interval(run_maker: Maker) -> None:
    folders = []
    for name, share, loss, value in (("a", 0.0, "none", 1.0), ("b", 0.5, "none", -3.0), ("c", 0.5, "hinge", 0.0)):
        folder = run_maker(name, share=share, loss=loss)
        write_records(folder, [row("source", "relative_delta_R", value, k=1, half=4.0)])
        folders.append(folder)
    line = Study(load_runs(folders)).rows()[-1]
    assert (line.arm, line.taken_back) == ("hinge", None)


def test_pooled_intervals_cover_the_mean_at_their_rate() -> None:
    """Gallery error common to all seeds, training error of each: both must be in the interval."""
    random = np.random.default_rng(0)
    covered, draws, seeds = 0, 2000, 8
    for _ in range(draws):
        common = random.normal(0, 3)
        points = common + random.normal(0, 4, seeds)
        entries = [
            record(
                Figure("relative_delta_R", 1, float(point), point - 1.96 * 3, point + 1.96 * 3),
                axis="source",
                ratio=0.5,
            )
            for point in points
        ]
        estimate = pool(entries)
        covered += estimate.low <= 0 <= estimate.high
    assert 0.92 < covered / draws < 0.98


def test_pooled_intervals_stay_in_the_figures_range() -> None:
    entries = [
        record(Figure("relative_delta_R", 1, value, -180.0, 100.0), axis="source", ratio=0.5)
        for value in (-150.0, 60.0)
    ]
    assert pool(entries).low == -200.0


def test_undefined_figures_are_left_out_of_means_and_stay_undefined_alone() -> None:
    known = record(Figure("x", 1, 2.0, 1.0, 3.0), axis="source", ratio=0.5)
    unknown = record(Figure("x", 1, math.nan), axis="source", ratio=0.5)
    assert pool([known, unknown]).value == 2.0
    assert math.isnan(pool([unknown]).value)
    assert math.isnan(pool([known, record(Figure("x", 1, 4.0), axis="source", ratio=0.5)]).low)


def test_done_runs_stand_for_an_arm_and_unfinished_ones_are_marked(run_maker: Maker) -> None:
    done = run_maker("done", seed=0)
    run_maker("stopped", seed=1, state="stopped")
    running = run_maker("running", share=0.2, state="running")
    study = Study(load_runs([done, done.parent / "stopped", running]))
    by_share = {line.share: line for line in study.rows()}
    assert by_share[0.5].seeds == 1
    assert by_share[0.5].bias is not None
    assert not by_share[0.5].bias.unfinished
    assert by_share[0.2].bias is not None
    assert by_share[0.2].bias.unfinished
    assert "running is running at step 200 of 400." in study.notes
    assert "stopped is interrupted at step 200 of 400." in study.notes


def test_an_empty_run_is_described_not_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text(json.dumps({"state": "failed", "error": "no index"}))
    study = Study(load_runs([tmp_path / "run"]))
    assert study.bias is None
    assert study.rows()[0].bias is None
    assert "run has failed: no index." in study.notes
    assert any("No source bias was recorded" in note for note in study.notes)


def test_options_are_checked(sweep_folder: Path) -> None:
    runs = load_runs([sweep_folder])
    assert Study(runs, ReportOptions(reference="hinge")).arms[0].label == "hinge"
    with pytest.raises(ReportError, match="no arm is called 'x'; there are"):
        Study(runs, ReportOptions(reference="x"))
    with pytest.raises(ReportError, match=r"training share of 0\.3; there are 0\.0, 0\.2"):
        _ = Study(runs, ReportOptions(focus_share=0.3)).focus_share
    with pytest.raises(ReportError, match="gallery_ratio"):
        ReportOptions(gallery_ratio=1.5)
