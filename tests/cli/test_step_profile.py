"""``bias-train fit --profile``: a trace, and a page that says where a step goes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bias_train.callbacks.step_profile import PARTS
from bias_train.errors import RunError

Train = Callable[..., Path]


def test_the_parts_of_a_step_are_named_and_add_up(train: Train) -> None:
    folder = train("--profile=2", "--trainer.val_check_interval=6") / "profile"
    page = (folder / "summary.md").read_text()
    whole = float(re.search(r"Where a step goes: ([\d.]+) ms, mean of 2", page)[1])  # type: ignore[index]
    parts = dict(re.findall(r"^\| ([a-z ]+) \| ([\d.]+) \|", page, re.MULTILINE))
    assert list(parts) == [*PARTS, "rest"]
    spent = {name: float(value) for name, value in parts.items()}
    assert all(spent[name] > 0 for name in ("encode pictures", "encode captions", "losses", "backward", "optimizer"))
    assert sum(spent.values()) == pytest.approx(whole, rel=0.05, abs=0.5)
    assert re.search(r"^\| `aten::", page, re.MULTILINE)
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    counts = {part: sum(event.get("name") == part for event in events) for part in PARTS}
    # Two losses a step; the wait before the first watched step is not seen.
    assert counts == {**dict.fromkeys(PARTS, 2), "losses": 4, "wait for data": 1}


def test_without_it_nothing_is_watched(train: Train) -> None:
    assert not (train("--trainer.max_steps=1", name="plain") / "profile").exists()


@pytest.mark.parametrize(("steps", "said"), [("4", "the run ends after 6"), ("-1", "give 1 or more")])
def test_a_number_of_steps_that_cannot_be_is_refused(train: Train, steps: str, said: str) -> None:
    with pytest.raises(RunError, match=said):
        train(f"--profile={steps}")
