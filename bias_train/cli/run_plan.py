"""The mixing plan of a run, from its configuration alone: no model is made and no picture read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser

from bias_train.cli.fit import FitCLI
from bias_train.cli.includes import expand_includes
from bias_train.errors import RunError
from datamodules.fingerprint import plan_differences
from datamodules.mixed_source import MixedSourceDataModule, run_seed
from datamodules.plan import MixingPlan


class _DataCLI(FitCLI):
    """The parser of ``bias-train fit``, of which only the data becomes an object."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Taken as they come: naming a model's or a trainer's classes would import them.
        for name in ("model", "trainer"):
            parser.add_argument(f"--{name}", type=dict, default={})
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True)

    def before_instantiate_classes(self) -> None:
        data, seed = self.config.data, self.config.seed_everything
        if data is not None and "seed" in data.init_args and data.init_args.seed is None:
            data.init_args.seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else run_seed()

    def instantiate_classes(self) -> None:
        self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule = self.config_init.data

    def _set_seed(self) -> None:
        pass  # the plan draws from its own seed


def plan_of_run(folder: Path | None, configs: Sequence[str] = (), overrides: Sequence[str] = ()) -> MixingPlan:
    """Make the plan that ``bias-train fit`` would train under.

    Args:
        folder: of a run, whose resolved configuration is read first.
        configs: configurations, with what they include.
        overrides: options of ``bias-train fit``.

    Raises:
        RunError: where nothing says which data, or its configuration is wrong.
        DataError: for what the shards cannot give.
    """
    arguments: list[str] = []
    if folder is not None:
        config = folder / "config.yaml"
        if not config.is_file():
            raise RunError(f"{folder}: holds no config.yaml, so it is no run's folder")
        arguments += ["--config", str(config)]  # resolved: what it once included is in it
    arguments += expand_includes([argument for name in configs for argument in ("--config", name)])
    arguments += overrides
    if not arguments:
        raise RunError("nothing says which data: give --run FOLDER of a run, or --config FILE of one to come")
    data = _datamodule(arguments)
    if not isinstance(data, MixedSourceDataModule):
        raise RunError(f"data is {type(data).__name__}, which follows no mixing plan")
    return data.make_plan()


def _datamodule(arguments: list[str]) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
        try:
            return _DataCLI(
                None,
                pl.LightningDataModule,
                subclass_mode_data=True,
                run=False,
                args=arguments,
                save_config_callback=None,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False},
            ).datamodule
        except ArgumentError as error:
            raise RunError(f"{' '.join(str(error).split())} (`bias-train fit --help` lists all options)") from error


def compare_with_record(folder: Path, plan: MixingPlan) -> str:
    """Compare a plan with the one that a run's folder records.

    Returns:
        What differs, for people; empty where nothing does, or where the run is older than the recording of plans.

    Raises:
        RunError: if the record cannot be read.
    """
    file = folder / "plan.json"
    if not file.is_file():
        return ""
    try:
        then = json.loads(file.read_text(encoding="utf-8"))["fingerprint_parts"]
        return plan_differences(then, plan.fingerprint_parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: is no record of a plan; remove it to go on without") from error


def plan_changes(folder: Path) -> list[int]:
    """Global batches at which a forced resumption changed a run's plan, in order."""
    steps = [path.stem.removeprefix("plan.before-") for path in folder.glob("plan.before-*.json")]
    return sorted(int(step) for step in steps if step.isdigit())


def recorded_world_size(folder: Path | None) -> int:
    """How many processes a run had; 1 where nothing says."""
    try:
        return int(json.loads((folder / "environment.json").read_text(encoding="utf-8"))["world_size"]) if folder else 1
    except (OSError, ValueError, KeyError, TypeError):
        return 1
