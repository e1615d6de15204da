"""``plan.json``: which mixing plan a run folder's run follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np

from bias_train.files import write_json
from datamodules.plan import MixingPlan


class PlanRecord(pl.Callback):
    """Writes ``plan.json`` when training starts, after a checkpoint of another plan would have been refused.

    Where going on under another plan is forced, what was recorded is kept as ``plan.before-<step>.json``, with the
    number of the first global batch of the new plan.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the plan."""
        plan = getattr(getattr(trainer, "datamodule", None), "plan", None)
        if not trainer.is_global_zero or not isinstance(plan, MixingPlan):
            return
        file, now = self.folder / "plan.json", describe_plan(plan)
        if file.exists():
            if json.loads(file.read_text(encoding="utf-8"))["fingerprint_parts"] == now["fingerprint_parts"]:
                return
            old = file.with_name(f"plan.before-{trainer.global_step * trainer.accumulate_grad_batches}.json")
            if not old.exists():  # otherwise a start from the same step, whose batches this one replaces
                file.rename(old)
        write_json(file, now)


def describe_plan(plan: MixingPlan) -> dict[str, Any]:
    """Describe a plan for people and for comparing it.

    Returns:
        ``fingerprint`` and ``fingerprint_parts``; ``photos`` and ``generated``, pictures that the shards hold;
        ``skipped_photos``, left out for want of a twin; ``sources``, pictures by source; with a selection also
        ``selection``: its digest, ``left_out``, samples that it leaves out, and ``edited_captions``.
    """
    catalogue = plan.catalogue
    counts = np.bincount(catalogue.picture_source, minlength=len(catalogue.sources)).tolist()
    selection = {}
    if (selected := plan.selected) is not None:
        left_out, edited = int(selected.left_out.sum()), len(selected.text)
        selection = {"selection": {"digest": selected.digest, "left_out": left_out, "edited_captions": edited}}
    return {
        "fingerprint": plan.fingerprint,
        "fingerprint_parts": plan.fingerprint_parts,
        "photos": len(catalogue.photos),
        "generated": sum(counts[1:]),
        "skipped_photos": plan.skipped_photos,
        "sources": dict(zip(catalogue.sources, counts, strict=True)),
        **selection,
    }
