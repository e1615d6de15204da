"""Sweep files: what they expand to, that ids are stable, and that mistakes are named."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path

import pytest
import yaml

from bias_train.sweeps.cells import Cell, expand, select
from bias_train.sweeps.errors import SweepError
from bias_train.sweeps.spec import load_sweep

GRID = {
    "name": "mixing",
    "base": ["base.yaml"],
    "axes": {
        "share": {"key": "data.share", "values": [0, 0.2, 0.5]},
        "loss": {"files": {"none": "none.yaml", "hinge": "hinge.yaml"}},
        "seed": {"key": "seed_everything", "values": [0, 1]},
    },
}


@pytest.fixture(autouse=True)
def _configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("trainer: {max_steps: 10}\n")
    Path("none.yaml").write_text("model: {losses: {}}\n")
    Path("hinge.yaml").write_text("model: {losses: {debias: {weight: 1.0}}}\n")


def cells_of(**changes: object) -> list[Cell]:
    Path("sweep.yaml").write_text(yaml.safe_dump({**GRID, **changes}, sort_keys=False))
    return expand(load_sweep("sweep.yaml"))


def axes(**changes: object) -> dict[str, object]:
    return {**GRID["axes"], **changes}  # type: ignore[dict-item]


def test_the_grid_is_the_product_in_the_files_order() -> None:
    cells = cells_of()
    expected = list(itertools.product([0, 0.2, 0.5], ["none", "hinge"], [0, 1]))
    assert [tuple(cell.axes.values()) for cell in cells] == expected
    assert len({cell.id for cell in cells}) == 12
    assert cells[2].id.startswith("share=0_loss=hinge_seed=0_")
    assert cells[2].folder == Path("runs/mixing") / cells[2].id


def test_the_command_trains_the_cell() -> None:
    cell = cells_of(overrides={"trainer.max_steps": 5, "data.mode": None})[-1]
    assert cell.argv() == [
        *("--config", "base.yaml", "--config", "hinge.yaml", "--trainer.max_steps=5", "--data.mode=null"),
        *("--data.share=0.5", "--seed_everything=1", "--run_dir", str(cell.folder)),
    ]
    assert shlex.split(cell.command()) == ["bias-train", "fit", *cell.argv()]
    assert json.loads(json.dumps(cell.document()))["axes"] == {"share": 0.5, "loss": "hinge", "seed": 1}


def test_adding_values_choices_and_exclusions_keeps_every_other_id() -> None:
    before = {cell.id for cell in cells_of()}
    wider = axes(
        share={"key": "data.share", "values": [0.9, 0, 0.2, 0.5]},
        loss={"files": {"extra": "hinge.yaml", "none": "none.yaml", "hinge": "hinge.yaml"}},
    )
    after = {cell.id for cell in cells_of(axes=wider, exclude=[{"share": 0.9, "loss": "extra"}])}
    assert before < after


def test_ids_follow_what_is_trained_not_how_it_is_written() -> None:
    before = [cell.id for cell in cells_of(overrides={"lr": 0.0001, "steps": 5})]
    Path("base.yaml").write_text("# a comment\ntrainer:\n    max_steps: 10.0\n")
    Path("elsewhere").mkdir()
    Path("none.yaml").rename("elsewhere/none.yaml")
    moved = axes(loss={"files": {"none": "elsewhere/none.yaml", "hinge": "hinge.yaml"}})
    assert [cell.id for cell in cells_of(axes=moved, overrides={"steps": 5.0, "lr": 1e-4})] == before
    Path("base.yaml").write_text("trainer: {max_steps: 11}\n")
    assert not set(before) & {cell.id for cell in cells_of(axes=moved, overrides={"lr": 1e-4, "steps": 5})}


def test_ids_follow_the_files_that_a_config_names() -> None:
    Path("part.json").write_text('{"width": 64}')
    Path("parts").mkdir()
    Path("parts/model.yaml").write_text("model: {config: part.json}\n")
    Path("base.yaml").write_text("include: [parts/model.yaml]\n")
    before = cells_of()
    Path("part.json").write_text('{"width": 65}')
    assert not {cell.id for cell in before} & {cell.id for cell in cells_of()}


def test_an_exponent_without_a_dot_is_a_number() -> None:
    Path("sweep.yaml").write_text("axes: {lr: {key: lr, values: [1e-4, 1.0e-4]}}\n")
    with pytest.raises(SweepError, match=r"axes\.lr: holds 0\.0001 twice"):
        load_sweep("sweep.yaml")


def test_exclude_drops_what_matches_every_coordinate() -> None:
    cells = cells_of(exclude=[{"share": 0.0, "loss": "hinge"}, {"share": [0.2, 0.5], "seed": 1}])
    kept = {tuple(cell.axes.values()) for cell in cells}
    every = set(itertools.product([0, 0.2, 0.5], ["none", "hinge"], [0, 1]))
    assert kept == {(s, m, e) for s, m, e in every if not (s == 0 and m == "hinge") and not (s > 0 and e == 1)}


def test_include_adds_cells_outside_the_grid_and_no_duplicates() -> None:
    cells = cells_of(include=[{"share": 0.9, "loss": "none"}, {"share": 0.5, "loss": "none", "seed": 0}])
    assert len(cells) == 12 + 2
    assert [cell.axes for cell in cells[12:]] == [{"share": 0.9, "loss": "none", "seed": seed} for seed in (0, 1)]
    assert "--data.share=0.9" in cells[12].argv()


def test_a_named_choice_may_add_files_and_overrides() -> None:
    loss = {
        "files": {"none": None, "hinge": ["none.yaml", "hinge.yaml"]},
        "overrides": {"hinge": {"weight": 4}, "x": {}},
    }
    cells = [cell for cell in cells_of(axes=axes(loss=loss)) if cell.axes["share"] == 0 and cell.axes["seed"] == 0]
    assert [cell.axes["loss"] for cell in cells] == ["none", "hinge", "x"]
    assert [len(cell.configs) for cell in cells] == [1, 3, 1]
    assert "--weight=4" in cells[1].argv()
    assert cells[0].fingerprint == cells[2].fingerprint  # equal trainings, told apart by their names
    assert cells[0].id != cells[2].id


@pytest.mark.parametrize("value", ["a/b c", "x" * 300, [1, 2], {"a": 1}, None, True, "ä"])
def test_any_value_makes_a_safe_folder_name(value: object) -> None:
    (cell,) = cells_of(axes={"thing": {"key": "thing", "values": [value]}})
    assert len(cell.id) < 140
    assert cell.id.isascii()
    assert set(cell.id).isdisjoint("/ '\"\\$*?[]{},;:")


def test_only_selects_by_id_hash_and_coordinates() -> None:
    cells = cells_of()
    assert select(cells, [cells[3].id]) == [cells[3]]
    assert select(cells, [cells[3].fingerprint]) == [cells[3]]
    assert [cell.axes["seed"] for cell in select(cells, ["share=0.50,loss=hinge"])] == [0, 1]
    assert select(cells, ["seed=1", "seed=0"]) == cells
    with pytest.raises(SweepError, match="no such cell"):
        select(cells, ["share=0.7"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": {}}, "axis: unknown key; known are name, root"),
        ({"axes": {}}, "axes: must hold at least one axis"),
        ({"axes": {"share": {"key": "data.share"}}}, r"axes\.share: needs either 'key' and 'values'"),
        ({"axes": {"share": {"key": "data.share", "values": []}}}, r"axes\.share: has no values"),
        ({"axes": {"share": {"key": "data.share", "values": 0.5}}}, r"axes\.share\.values: must be a list"),
        ({"axes": {"loss": {"files": {"a": "missing.yaml"}}}}, r"axes\.loss\.files\.a: no configuration missing\.yaml"),
        ({"axes": {"loss": {"files": {False: "none.yaml"}}}}, r"axes\.loss: the name False is not text; put it in"),
        ({"base": ["missing.yaml"]}, r"base: no configuration missing\.yaml"),
        ({"exclude": [{"los": "none"}]}, r"exclude\[0\]: unknown axis 'los'; known are share, loss, seed"),
        ({"exclude": [{"share": 0.7}]}, r"exclude\[0\]: axis share has no value 0\.7; it has 0, 0\.2, 0\.5"),
        ({"exclude": [{}]}, "would exclude every cell"),
        ({"exclude": [{"seed": [0, 1]}]}, "exclude leaves no cell"),
        ({"include": [{"loss": "new"}]}, r"include\[0\]: axis loss has no choice 'new'"),
        ({"overrides": {"data.share": 1}}, r"axes\.share: sets data\.share, which overrides sets too"),
        ({"overrides": {"run_dir": "x"}}, "'run_dir' is set by the sweep itself"),
        ({"setup": [{"creates": "x"}]}, r"setup\[0\]: needs 'command'"),
        ({"report": {"metrics": "x"}}, "report: unknown report option 'metrics'"),
        ({"report": {"gallery_ratio": 2}}, "report: .*gallery_ratio.*must be a number in"),
    ],
)
def test_mistakes_are_named_with_file_and_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SweepError, match=rf"sweep\.yaml: .*{message}"):
        cells_of(**changes)


def test_broken_yaml_and_a_missing_file_are_named() -> None:
    Path("sweep.yaml").write_text("axes: {share: [\n")
    with pytest.raises(SweepError, match=r"sweep\.yaml is not valid YAML: .*line 2"):
        load_sweep("sweep.yaml")
    with pytest.raises(SweepError, match=r"nowhere\.yaml"):
        load_sweep("nowhere.yaml")
