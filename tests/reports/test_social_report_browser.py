"""The page of the social audit in a real browser: nothing overflows, nothing is fetched, and text can be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bias_train.cli.main import main

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("BIAS_TRAIN_CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven races by two genders, and more words than the heat map shows at once."""
    folder = tmp_path_factory.mktemp("social")
    rng = np.random.default_rng(0)
    count, asked = 700, 60
    race, gender = rng.integers(0, 7, size=count), rng.integers(0, 2, size=count)
    image, text = rng.normal(size=(count, 16)), rng.normal(size=(asked, 16))
    image[np.arange(count), race] += 2.0
    image[:, 8] += 2.0 * gender
    names = ["East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian"]
    made = {
        "image": image.astype(np.float32),
        "attribute_race": np.array(names)[race],
        "attribute_gender": np.array(["Male", "Female"])[gender],
        "text": text.astype(np.float32),
        "word": np.array([f"a-rather-long-word-{i}" for i in range(asked)]),
        "category": np.array([f"category {i % 5}" for i in range(asked)]),
    }
    np.savez(folder / "faces.npz", **made)
    np.savez(folder / "before.npz", **(made | {"text": text[::-1].astype(np.float32)}))
    arguments = ["--vectors", str(folder / "faces.npz"), "--against", str(folder / "before.npz"), "--k", "50"]
    assert main(["audit", "social", *arguments, "--resamples", "40", "--output", str(folder / "out")]) == 0
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; set BIAS_TRAIN_CHROMIUM to one")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        instance = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield instance
        instance.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_the_page(browser: Any, report: Path, width: int, scheme: str) -> None:
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
    # Nothing sticks out but what stands in a part that scrolls by itself.
    outside = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(item => {
            if (item.closest('.scroll') || item.closest('svg')) return false;
            const box = item.getBoundingClientRect();
            return box.width > 0 && box.right > document.documentElement.clientWidth + 0.5;
        }).map(item => item.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    # Every word stands once by each attribute, in the lists and in the heat maps.
    assert page.evaluate("document.querySelectorAll('td[data-word]').length") == 3 * 60
    assert page.evaluate("document.querySelectorAll('td[data-cell]').length") == 60 * (2 + 7 + 14)
    # The shares of a word fill its bar, whatever the number of groups.
    bars = page.evaluate(
        """[...document.querySelectorAll('.shares')].map(bar => [bar.getBoundingClientRect().width,
            [...bar.children].reduce((sum, item) => sum + item.getBoundingClientRect().width, 0)])"""
    )
    assert len(bars) == 3 * 60
    assert all(abs(whole - parts) < 0.02 * whole for whole, parts in bars)
    # An interval reaches from its left end to its right end, with the dot between them.
    for left, right, dot in page.evaluate(
        """[...document.querySelectorAll('.range')].map(item => {
            const [bar, dot] = ['i', 'b'].map(part => item.querySelector(part).getBoundingClientRect());
            return [bar.left, bar.right, (dot.left + dot.right) / 2]; })"""
    ):
        assert left - 0.5 <= dot <= right + 0.5
    # WCAG AA asks for a contrast of 4.5, on the heat map's deepest colours too.
    assert min(page.evaluate(CONTRASTS)) >= 4.5
    assert complaints == []
    context.close()


CONTRASTS = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const over = (colour, under) => {
        canvas.fillStyle = `rgb(${under.join(' ')})`; canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = rgb => {
        const [r, g, b] = rgb.map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    return [...document.querySelectorAll('td.heat')].map(cell => {
        const card = over(getComputedStyle(cell.closest('.card, details')).backgroundColor, [255, 255, 255]);
        const ground = over(getComputedStyle(cell).backgroundColor, card);
        const [dark, bright] = [light(ground), light(over(getComputedStyle(cell).color, ground))].sort((a, b) => a - b);
        return (bright + 0.05) / (dark + 0.05);
    });
}"""
