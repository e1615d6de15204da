"""The page in a real browser: nothing overflows, everything loads, and the numbers are those of the records."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bias_train.cli.report import main

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("BIAS_TRAIN_CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(sweep_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report") / "report.html"
    assert main([str(sweep_folder), "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; set BIAS_TRAIN_CHROMIUM to one")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        instance = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield instance
        instance.close()


@pytest.fixture(params=[(width, scheme) for width in (1280, 360) for scheme in ("light", "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("requestfailed", lambda failed: complaints.append(failed.url[:100]))
    opened.goto(report.as_uri())
    opened.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    yield opened
    assert complaints == []
    context.close()


def test_nothing_overflows_and_every_picture_loads(page: Any) -> None:
    wide, inside = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= inside
    assert page.evaluate("document.images.length") == 6 * 3 * 8
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    # Nothing sticks out but what stands in a part that scrolls by itself.
    outside = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(item => {
            if (item.closest('.scroll') || item.closest('pre') || item.closest('svg')) return false;
            const box = item.getBoundingClientRect();
            return box.width > 0 && box.right > document.documentElement.clientWidth + 0.5;
        }).map(item => item.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def test_text_stands_out_from_its_ground(page: Any) -> None:
    """WCAG AA asks for a contrast of 4.5 in text and 3 in drawings, in both colour schemes."""
    colours = page.evaluate(
        """() => { const style = getComputedStyle(document.documentElement);
        const names = ['paper', 'desk', 'ink', 'muted', 'link', 'photo', 'generated', 'warn', 'warn-ink',
                       ...Array.from({length: 8}, (_, index) => `arm-${index}`)];
        return Object.fromEntries(names.map(name => [name, style.getPropertyValue(`--${name}`).trim()])); }"""
    )

    def luminance(name: str) -> float:
        channels = np.array([int(colours[name][place : place + 2], 16) / 255 for place in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(first: str, second: str) -> float:
        dark, light = sorted((luminance(first), luminance(second)))
        return (light + 0.05) / (dark + 0.05)

    for ground in ("paper", "desk"):
        for text in ("ink", "muted", "link"):
            assert contrast(text, ground) >= 4.5, (text, ground)
    assert contrast("warn-ink", "warn") >= 4.5
    for drawn in ("photo", "generated", *(f"arm-{index}" for index in range(8))):
        assert contrast(drawn, "paper") >= (4.5 if drawn in ("photo", "generated") else 3), drawn


def test_plots_follow_the_colour_scheme(page: Any) -> None:
    ink, label = page.evaluate(
        """[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('figure svg text')).fill]"""
    )
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (sum(map(int, ink[4:-1].split(", "))) > 384) == dark
    assert (sum(map(int, label[4:-1].split(", "))) > 384) == dark


def test_the_tables_numbers_are_those_of_the_records(page: Any, sweep_folder: Path) -> None:
    rows = page.evaluate(
        """[...document.querySelectorAll('.headline tr[data-arm]')].map(row => [
            row.dataset.share, row.dataset.arm,
            ...[...row.querySelectorAll('td[data-value]')].map(cell =>
                [Number(cell.dataset.value), cell.querySelector('.value').innerText])])"""
    )
    assert len(rows) == 8
    for share, arm, bias, retrieval in rows:
        recorded: dict[str, list[float]] = {"relative_delta_P": [], "class_accuracy": []}
        for folder in sweep_folder.glob(f"share={float(share):g}_loss={arm}_seed=*"):
            with (folder / "records.csv").open() as stream:
                for line in csv.DictReader(stream):
                    ratio = "0.5" if line["name"] == "relative_delta_P" else "0.0"
                    plain = line["generator"] == "all" and not line["label"] and line["step"] == "400"
                    if line["name"] in recorded and line["ratio"] == ratio and plain:
                        recorded[line["name"]].append(float(line["value"]))
        for (exact, shown), values, factor in (
            (bias, recorded["relative_delta_P"], 1),
            (retrieval, recorded["class_accuracy"], 100),
        ):
            assert len(values) == 2
            assert exact == pytest.approx(np.mean(values))
            number = float(shown.replace("−", "-").replace("%", "").strip())
            assert number == pytest.approx(factor * np.mean(values), abs=0.0501)
