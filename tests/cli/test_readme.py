"""What the README says works as it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from bias_train.cli.includes import expand_includes
from bias_train.cli.main import COMMANDS
from bias_train.paths import find_config
from bias_train.sweeps.cells import expand
from bias_train.sweeps.spec import load_sweep

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["bias-train"]]


def test_every_command_exists() -> None:
    assert len(commands()) > 10
    for command in commands():
        assert command[0] in COMMANDS


@pytest.mark.parametrize("command", [c for c in commands() if c[0] == "shards"], ids=" ".join)
def test_shard_commands_parse(command: list[str]) -> None:
    from bias_train.cli.shards import _parser

    options, rest = _parser().parse_known_args(command[1:])
    # `plan` takes the options of `fit` too.
    assert not rest or (options.command == "plan" and all(word.startswith("--data.") for word in rest))


@pytest.mark.parametrize("command", [c for c in commands() if c[0] in ("audit", "curate", "remedy")], ids=" ".join)
def test_audits_and_remedies_parse(command: list[str]) -> None:
    parser = import_module(COMMANDS[command[0]][1])._parser()
    assert parser.parse_args(command[1:])


@pytest.mark.parametrize("command", [c for c in commands() if c[0] == "fit"], ids=" ".join)
def test_fit_commands_name_configurations_that_exist(command: list[str]) -> None:
    assert expand_includes(command[1:])


@pytest.mark.parametrize("command", [c for c in commands() if c[0] == "sweep"], ids=" ".join)
def test_sweep_commands_name_sweeps_that_exist(command: list[str]) -> None:
    assert expand(load_sweep(command[2]))


def test_every_named_configuration_exists() -> None:
    for name in re.findall(r"configs/\w+/\w+\.(?:yaml|json)", README):
        find_config(name)


def test_the_readmes_own_loss_trains(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,), (configuration,) = blocks("python"), blocks("yaml")
    (tmp_path / "site" / "my_losses").mkdir(parents=True)
    (tmp_path / "site" / "my_losses" / "__init__.py").write_text(source)
    (tmp_path / "mine.yaml").write_text(configuration)
    assert yaml.safe_load(configuration)["model"]["losses"]["mine"]["loss"]["class_path"] == "my_losses.SquaredGap"
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    folder = train("--config", str(tmp_path / "mine.yaml"))
    assert "train/mine/squared_gap" in (folder / "metrics.csv").read_text().splitlines()[0]
