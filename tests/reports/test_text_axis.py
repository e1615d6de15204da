"""What a report says of text spotting: the table of cells, differences from the reference, and the trade plot."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from report_runs import row, write_records
from rich.console import Console

from bias_train.cli.main import main
from bias_train.reports.collect import Metric, load_runs
from bias_train.reports.options import ReportOptions
from bias_train.reports.study import Estimate, Study
from bias_train.reports.text_axis import change_of, ends, spelt, text_findings, text_table

Maker = Callable[..., Path]

# Of each loss: NS, win share, ordinary and reading R@1; the remedy halves reading bias and costs some reading.
FIGURES = {"none": (0.8, 0.6, 0.50, 0.40), "hinge": (0.3, 0.24, 0.49, 0.36)}
NAMES = (("NS", ""), ("win_share", ""), ("clean_t2i_R", 1), ("reading_t2i_R", 1))


def spotting(folder: Path, loss: str, seed: int, *, drop: int | None = None) -> None:
    rows = [
        row("text", name, value + 0.02 * seed, k=k, ratio=0.0, half=0.05, step=step)
        for place, ((name, k), value) in enumerate(zip(NAMES, FIGURES[loss], strict=True))
        if place != drop
        for step in (200, 400)
    ]
    rows.append(row("text", "sync", 0.3, ratio=0.0, label="white/black"))
    write_records(folder, rows)


@pytest.fixture
def sweep(run_maker: Maker) -> Path:
    for loss in FIGURES:
        for seed in (0, 1):
            folder = run_maker(f"sweep/loss={loss}_seed={seed}", share=0.0, loss=loss, seed=seed, examples=False)
            spotting(folder, loss, seed)
    return folder.parent


def test_the_table_of_cells(sweep: Path) -> None:
    study = Study(load_runs([sweep]))
    findings = text_findings(study)
    assert findings is not None
    assert [column.heading for column in findings.columns] == [
        "NS", "Written word wins", "Ordinary captions, R@1", "Captions about text, R@1",
    ]  # fmt: skip
    reference, remedy = findings.rows
    assert (reference.arm, remedy.arm, remedy.seeds) == ("none", "hinge", 2)
    assert [cell.change for cell in reference.cells] == [None] * 4
    for place in range(4):
        estimate, change = remedy.cells[place].estimate, remedy.cells[place].change
        assert estimate is not None
        assert change is not None
        before = reference.cells[place].estimate
        assert before is not None
        assert estimate.value == pytest.approx(FIGURES["hinge"][place] + 0.01)
        assert change.value == pytest.approx(FIGURES["hinge"][place] - FIGURES["none"][place])
        half = math.hypot(estimate.value - estimate.low, before.high - before.value)
        assert change.low == pytest.approx(change.value - half)
    assert remedy.cells[0].remaining == pytest.approx(0.31 / 0.81)
    assert remedy.cells[3].remaining is None  # of reading, more is wanted
    assert not any("No source bias" in note for note in study.notes)


def test_the_page_and_the_terminal(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = sweep / "page.html"
    assert main(["report", str(sweep), "--output", str(output)]) == 0
    told = capsys.readouterr().out
    assert "text spotting" in told
    assert "−0.500" in told
    page = output.read_text()
    assert "Text spotting of 4 runs" in page
    exact = dict(re.findall(r'data-figure="([^"]+)" data-exact="([^"]+)"', page.partition('data-text-arm="hinge"')[2]))
    assert float(exact["NS"]) == pytest.approx(0.31)
    assert float(exact["reading_t2i_R@1"]) == pytest.approx(0.37)
    assert page.count("against NS") >= 1
    assert "Best is high and to the left: little reading bias" in page
    assert "Reading bias (NS) over training" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_without_a_reading_set_the_plot_says_so(run_maker: Maker) -> None:
    for loss in FIGURES:
        folder = run_maker(f"sweep/{loss}", share=0.0, loss=loss, examples=False)
        spotting(folder, loss, 0, drop=3)
    findings = text_findings(Study(load_runs([folder.parent])))
    assert findings is not None
    assert len(findings.plots) == 2
    assert all("blindness to text looks like a cure" in plot.caption for plot in findings.plots)


def test_runs_without_text_spotting_and_cells_that_lack_a_figure(run_maker: Maker) -> None:
    for loss in FIGURES:
        folder = run_maker(f"sweep/{loss}", share=0.5, loss=loss, examples=False)
    assert text_findings(Study(load_runs([folder.parent]))) is None
    assert text_table(Study(load_runs([folder.parent]))) is None
    spotting(folder.parent / "none", "none", 0)
    spotting(folder.parent / "hinge", "hinge", 0, drop=0)
    table = text_table(Study(load_runs([folder.parent]), ReportOptions(reference="none")))
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    assert "–" in console.export_text()


def test_how_figures_are_written() -> None:
    drop = Metric("overlay_t2i_drop", 1)
    assert spelt(-0.125, drop, signed=True) == "−12.5\xa0%"
    assert spelt(math.nan, Metric("NS", None)) == "–"
    assert ends(Estimate(0.5, math.nan, math.nan, ()), drop) == ""
    assert ends(Estimate(0.5, 0.25, 0.75, ()), Metric("win_share", None)) == "25.0 to 75.0"
    findings = Metric("NS", None)
    assert findings.bounds == (-math.inf, math.inf)
    assert Metric("RSA_net_mean", None).bounds == (-2.0, 2.0)
    assert Metric("RSA_above_0.1", None).is_share
    from bias_train.reports.text_axis import Cell

    assert change_of(Cell(None), findings) == ""
    assert change_of(Cell(None, Estimate(-0.5, -0.6, -0.4, ()), 0.4), findings) == "−0.500 (−0.600 to −0.400), 0.40 ×"
