"""The pages of text spotting, an audit's and a sweep's, in a real browser: nothing overflows, nothing is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from report_runs import make_run, row, write_records
from written_shards import WORDS, write_attacked, write_erased, write_overlaid, write_signs

from bias_train.audit.text.options import TextOptions
from bias_train.audit.text.rendering import Rendering
from bias_train.audit.text.run import audit_text
from bias_train.audit.text.text_set import text_set
from bias_train.cli.main import main
from bias_train.reports.text_audit import write_text_report
from bias_train.stats import Bootstrap

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("BIAS_TRAIN_CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    writers = {"overlaid": write_overlaid, "erased": write_erased, "signs": write_signs, "attacked": write_attacked}
    for name, write in writers.items():
        write(folder / name)
    asked = text_set(
        [str(folder / "overlaid"), str(folder / "erased")], rendering=Rendering(WORDS),
        reading=[str(folder / "signs")], attack=[str(folder / "attacked")],
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    assert asked.rendering is not None
    pictures = len(asked.pictures) + len(asked.rendering)
    vectors = [
        tuple(torch.nn.functional.normalize(torch.randn(rows, 16, generator=generator), dim=1)
              for rows in (pictures, len(asked.texts)))
        for _ in range(2)
    ]  # fmt: skip
    outcome = audit_text(
        asked, vectors[0], TextOptions(bootstrap=Bootstrap(40)), against=vectors[1],  # type: ignore[arg-type]
        title="A retriever with a rather long name that has no space_anywhere_in_it_at_all",
    )  # fmt: skip
    write_text_report(outcome, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    names = ("NS", "rendered_t2i_R", "win_share", "overlay_t2i_drop", "attack_success", "attack_accuracy",
             "clean_t2i_R", "reading_t2i_R")  # fmt: skip
    for place, loss in enumerate(("none", "hinge")):
        run = make_run(folder / loss, share=0.0, loss=loss, examples=False)
        k = {name: 1 for name in names if name.endswith(("_R", "_drop"))}
        write_records(run, [
            row("text", name, 0.5 - 0.2 * place, k=k.get(name, ""), ratio=0.0, half=0.05, step=step)
            for name in names for step in (200, 400)
        ])  # fmt: skip
    assert main(["report", str(folder), "--output", str(folder / "report.html")]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; set BIAS_TRAIN_CHROMIUM to one")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        instance = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield instance
        instance.close()


@pytest.mark.parametrize("which", ["audit", "study"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_the_page(browser: Any, request: pytest.FixtureRequest, which: str, width: int, scheme: str) -> None:
    report: Path = request.getfixturevalue(which)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda failed: complaints.append(failed.url[:100]))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    wide, inside = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= inside
    outside = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(item => {
            if (item.closest('.scroll') || item.closest('pre') || item.closest('svg')) return false;
            const box = item.getBoundingClientRect();
            return box.width > 0 && box.right > document.documentElement.clientWidth + 0.5;
        }).map(item => item.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    # Every link of the page leads somewhere on it.
    assert page.evaluate(
        "[...document.querySelectorAll('nav a')].every(link => document.querySelector(link.getAttribute('href')))"
    )
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(item => item.id)")
    assert len(ids) == len(set(ids))
    if which == "audit":
        keys = page.evaluate("[...document.querySelectorAll('td[data-key]')].map(cell => cell.dataset.key)")
        assert {"NS", "sync|white/black", "change|win_share", "attack_success_net"} <= set(keys)
        assert len(page.query_selector_all("figure.plot > svg")) == 3
    else:
        assert page.evaluate("document.querySelectorAll('td[data-figure]').length") == 2 * 8
        assert len(page.query_selector_all("#text figure.plot > svg")) == 2
    assert complaints == []
    context.close()
