"""What W&B's agents are told to run is one of our own cells, each once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from bias_train.cli.main import main
from bias_train.cli.sweep import _parser
from bias_train.sweeps.cells import expand, select
from bias_train.sweeps.spec import load_sweep

FILE = "configs/sweep/demo.yaml"


def test_every_cell_is_dealt_once_by_wandbs_own_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "plan", FILE, "--wandb", str(tmp_path / "agents.yaml")]) == 0
    assert f"wandb sweep {tmp_path / 'agents.yaml'}" in capsys.readouterr().out
    document = yaml.safe_load((tmp_path / "agents.yaml").read_text())
    assert (document["name"], document["method"]) == ("demo", "grid")
    cells = expand(load_sweep(FILE))
    dealt = []
    for value in document["parameters"]["only"]["values"]:
        spelt = create_sweep_command_args({"args": {"only": {"value": value}}})["args"]
        words = [
            w for word in create_sweep_command(document["command"]) for w in (spelt if word == "${args}" else [word])
        ]
        assert words[:2] == ["bias-train", "sweep"]
        options = _parser().parse_args(words[2:])
        (cell,) = select(expand(load_sweep(options.file)), options.only)
        dealt.append(cell.id)
    assert dealt == [cell.id for cell in cells]
