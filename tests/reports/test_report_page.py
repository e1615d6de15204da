"""The page as text: it stands alone, escapes what it shows, and says what is missing."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import row, write_records
from rich.console import Console

from bias_train.cli.main import main as program
from bias_train.cli.report import main
from bias_train.reports.page import write_report
from bias_train.reports.table import headline_table

Maker = Callable[..., Path]


class Collector(HTMLParser):
    """Collects what a browser would fetch, and every id."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag != "script"
        for name in ("src", "href", "xlink:href", "data", "poster", "srcset"):
            address = found.get(name)
            if address and not address.startswith(("#", "data:")):
                self.fetched.append(address)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "img":
            self.images.append(found)


def read(path: Path) -> tuple[str, Collector]:
    text = path.read_text(encoding="utf-8")
    collector = Collector()
    collector.feed(text)
    return text, collector


def test_the_page_stands_alone(sweep_folder: Path, tmp_path: Path) -> None:
    assert main([str(sweep_folder), "--output", str(tmp_path / "report.html")]) == 0
    text, page = read(tmp_path / "report.html")
    assert page.fetched == []
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(page.ids) == len(set(page.ids))
    used = set(re.findall(r'(?:xlink:)?href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert {one or other for one, other in used} <= set(page.ids)
    assert page.images
    assert all(image["alt"] for image in page.images)
    assert text.count('role="img" aria-label=') == text.count("<figure")
    assert len(text.encode()) < 1_500_000
    assert not re.search(r"#0[01a][0b0][0-9a-f]{3}\b", text.split("</style>")[1])  # no placeholder colour is left


def test_the_same_runs_give_the_same_bytes(run_maker: Maker, tmp_path: Path) -> None:
    folder = run_maker("run")
    pages = []
    for _ in range(2):
        write_report([folder], tmp_path / "report.html")
        pages.append((tmp_path / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_what_runs_say_is_escaped(run_maker: Maker, tmp_path: Path) -> None:
    folder = run_maker("run", loss="hinge")
    cell = json.loads((folder / "cell.json").read_text())
    cell["axes"]["loss"] = "<b>&$x$"
    (folder / "cell.json").write_text(json.dumps(cell))
    write_records(folder, [row("source", "relative_delta_P", -5, k=100, label="<em>$a$", note="<u>")])
    with (folder / "records.csv").open("a", newline="") as stream:
        csv.writer(stream).writerow(row("source", "relative_delta_P", -5, k=100, note="<u>").values())
    write_report([folder], tmp_path / "report.html", default_title="<s>")
    text, _ = read(tmp_path / "report.html")
    for tag in ("<b>", "<em>", "<u>", "<s>"):
        assert tag not in text
    assert "&lt;em&gt;$a$" in text


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda run: (run / "records.csv").unlink(), "No source bias was recorded"),
        (lambda run: (run / "metrics.csv").unlink(), "Bias over training"),
        (lambda run: (run / "config.yaml").write_text("a: [b"), "config.yaml cannot be read"),
        (lambda run: (run / "examples" / "examples.json").write_text("[{}]"), "1 unreadable entries of examples.json"),
        (lambda run: (run / "examples" / "00000_00.jpg").write_bytes(b"torn"), "picture missing"),
        (lambda run: (run / "examples" / "examples.json").unlink(), "No run has kept example rankings"),
        (lambda run: (run / "status.json").unlink(), "run is pending"),
        (lambda run: (run / "environment.json").unlink(), "No run has an environment.json"),
        (
            lambda run: write_records(run, [row("source", "relative_delta_P", float("nan"), k=100, note="no hits")]),
            "No bias curve: no run has both",
        ),
    ],
)
def test_what_is_missing_is_said(
    run_maker: Maker, tmp_path: Path, break_it: Callable[[Path], object], said: str
) -> None:
    folder = run_maker("run")
    break_it(folder)
    write_report([folder], tmp_path / "report.html")
    assert said in read(tmp_path / "report.html")[0]


def test_cells_that_never_started_are_named(run_maker: Maker, tmp_path: Path) -> None:
    write_report([run_maker("run")], tmp_path / "report.html", missing=["share=0.9"])
    assert "1 cells have not been started: share=0.9." in read(tmp_path / "report.html")[0]


def test_the_differing_keys_come_first_and_folders_do_not_differ(sweep_folder: Path, tmp_path: Path) -> None:
    write_report(sorted(sweep_folder.iterdir()), tmp_path / "report.html")
    text, _ = read(tmp_path / "report.html")
    heads = re.search(r'<table class="configs"><thead>(.*?)</thead>', text, re.DOTALL)
    assert heads is not None
    assert re.findall(r">([^<>]+)</th>", heads.group(1)) == [
        *("run", "state", "data.share", "seed_everything", "debias.class_path", "debias.margin", "debias.weight"),
    ]


def test_a_run_without_a_configuration_makes_no_key_differ(run_maker: Maker, tmp_path: Path) -> None:
    folders = [run_maker("a", share=0.2), run_maker("b"), run_maker("c", state="failed")]
    (folders[2] / "config.yaml").unlink()
    (folders[2] / "metrics.csv").unlink()
    write_report(folders, tmp_path / "report.html")
    text, _ = read(tmp_path / "report.html")
    assert ">data.share</th>" in text
    assert ">trainer.max_steps</th>" not in text
    assert "Part of the gradient: contrastive" not in text  # every arm has that term


def test_the_terminals_table_has_the_pages_rows(sweep_folder: Path) -> None:
    table = headline_table([sweep_folder])
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    text = console.export_text()
    assert table.row_count == 8
    assert "Relative Δ of P@100" in text
    assert "taken" in text


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder; give run folders or a sweep's folder" in capsys.readouterr().err
