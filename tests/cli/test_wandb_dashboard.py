"""The dashboard refers to what our runs really log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from offline_run import OfflineRun, parts_of

from bias_train.cli.fit import fit
from bias_train.cli.main import main
from bias_train.tracking.panels import DEFAULT_NAMES, sections

pytest.importorskip("wandb_workspaces", reason="the extra `tracking` is not installed")


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OfflineRun]:
    """A real run with the callbacks' own options."""
    folder = tmp_path_factory.mktemp("default")
    document = yaml.safe_load(config.read_text())
    document["trainer"]["callbacks"] = [
        {"class_path": f"bias_train.callbacks.{name}", "init_args": {"resamples": 0}}
        for name in ("source_bias.SourceBias", "retrieval.Retrieval")
    ]
    document["logging"] = {"tensorboard": False}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    folder = fit(["--config", str(folder / "config.yaml"), "--run_dir", str(folder / "run")])
    (part,) = parts_of(folder)
    return folder, part


def spec(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "spec.json"
    assert main(["wandb", "dashboard", "trial", "--entity=team", f"--dry-run={file}", *arguments]) == 0
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def panels(document: Any) -> Iterator[dict[str, Any]]:
    """All panels of a workspace or a report, wherever they hang."""
    if isinstance(document, dict):
        if "viewType" in document:
            yield document
        for value in document.values():
            yield from panels(value)
    elif isinstance(document, list):
        for value in document:
            yield from panels(value)


def assert_shows_what_is_logged(document: dict[str, Any], run: OfflineRun) -> None:
    kinds = set()
    for panel in panels(document):
        kinds.add(panel["viewType"])
        config = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            assert config["xAxis"] in run.names()
            assert config["metrics"]
            assert set(config["metrics"]) <= run.names()
        elif panel["viewType"] == "Scatter Plot":
            for place in (config["xAxis"], config["yAxis"]):
                section, _, name = place.partition(":")
                if section == "summary":
                    assert name in run.summary
                else:
                    assert section == "config"
                    assert value_at(run.config, name) == 0.5
        else:
            assert panel["viewType"] == "Weave"
            assert any(f'"{name}"' in json.dumps(panel) for name in run.names() if name.endswith("/examples"))
    assert kinds == {"Run History Line Plot", "Scatter Plot", "Weave"}


def value_at(config: dict[str, Any], name: str) -> Any:
    """Follow a name as W&B spells it, with ``value`` between a key and what lies below."""
    first, value, *rest = name.split(".")
    assert value == "value"
    place: Any = config[first]
    for key in rest:
        place = place[key]
    return place


@pytest.mark.parametrize("arguments", [[], ["--report"]])
def test_panels_show_what_a_run_logs(
    run: tuple[Path, OfflineRun], tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, part = run
    assert_shows_what_is_logged(spec(tmp_path, *arguments), part)
    assert_shows_what_is_logged(spec(tmp_path, *arguments, "--runs", str(folder.parent)), part)
    assert set(DEFAULT_NAMES) <= part.names()


def test_a_workspace_has_its_sections(tmp_path: Path) -> None:
    document = spec(tmp_path)
    assert (document["entity"], document["project"], document["displayName"]) == ("team", "trial", "Bias")
    found = document["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in found] == [
        "Bias: source",
        "Bias against retrieval",
        "Retrieval",
        "Throughput and data",
        "Training",
    ]
    assert all(section["panels"] for section in found)


def test_an_axis_to_come_gets_a_section_of_its_own() -> None:
    names = ["bias/gender/skew@10/ratio=0.5", "bias/gender/skew@10/ratio=0.5/generator=sd", "retrieval/t2i_R@1/ratio=0"]
    gender, pareto, retrieval = sections(names)
    assert gender.name == "Bias: gender"
    assert [panel.kind for panel in gender.panels] == ["scatter", "line", "line"]
    assert [panel.y for panel in gender.panels] == [(names[0],), (names[0],), (names[1],)]
    assert [(panel.x, panel.y) for panel in pareto.panels] == [(names[2], (names[0],))]
    assert retrieval.panels[0].y == (names[2],)


def test_class_relevance_takes_the_figures_of_the_report() -> None:
    names = [f"bias/source/relative_delta_{m}@{k}/ratio=0.5" for m in "RP" for k in (10, 100)]
    names += ["retrieval/class_accuracy/ratio=0"]
    bias, pareto, _ = sections(names)
    assert bias.panels[0].y == ("bias/source/relative_delta_P@100/ratio=0.5",)
    assert bias.panels[1].y == ("bias/source/relative_delta_R@10/ratio=0.5",)
    assert pareto.panels[0].x == "retrieval/class_accuracy/ratio=0"


def test_folders_without_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wandb", "dashboard", "trial", "--runs", str(tmp_path), "--dry-run", str(tmp_path / "x")]) == 2
    assert "no metrics.csv in" in capsys.readouterr().err
