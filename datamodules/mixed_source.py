"""The LightningDataModule of the source axis: photos and generated pictures at an exact ratio."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from datamodules.catalogue import Catalogue
from datamodules.decode import Augmentation
from datamodules.errors import DataError
from datamodules.evaluation import EvaluationSet, EvaluationStream, Relevance, evaluation_set
from datamodules.fingerprint import plan_differences
from datamodules.index import ShardIndex
from datamodules.picture_ring import make_ring
from datamodules.plan import Composition, MixingPlan, MixSpec, Mode
from datamodules.remote import CacheOptions, Location, is_remote
from datamodules.stream import MixedStream, Tokenize
from datamodules.timed_loader import TimedLoader
from datamodules.workers import end_with_trainer, worker_context

log = logging.getLogger(__name__)

_MOST_TOLD = 200


class MixedSourceDataModule(pl.LightningDataModule):
    """Streams training batches that mix photos and generated pictures, and the pictures of the evaluation.

    A training picture that cannot be used (:class:`datamodules.errors.SampleError` lists why) is counted by kind in
    ``skips`` and logged. Another picture of the same source, drawn from the plan's seed, takes its slot, so that the
    batch keeps its ratio; its twin goes with it. A twin that cannot be used is left out. Twenty spares in a row that
    cannot be used either, or more than ``max_bad_share`` of all on one rank, stop the run. In the evaluation nothing
    is replaced: a picture that cannot be used stops the run by name. Indexes are checked when they are loaded: one
    that is damaged, of another version or of other shards is refused.

    Args:
        train: folders of shards (each with its index) to train on; photos and generated pictures may lie in one set (as
            twins) or in several. Sets that lie elsewhere are named by ``https://``, ``s3://``, ``gs://`` or ``pipe:``.
        val: shards to evaluate on, likewise; empty trains without evaluation.
        share: share of generated pictures among training anchors, in [0, 1]; exact in every batch.
        generators: relative weight per generator; empty takes all that the shards hold, equally.
        mode: ``replace``, ``add`` or ``unpaired``, see :class:`datamodules.plan.MixSpec`.
        composition: ``mixed``, ``per_device_source`` or ``per_batch_source``.
        batch_size: global batch over all processes.
        blocks: parts of the global batch in which the ratio is exact; 0 chooses.
        twin_share: share of anchors that carry their twin, for losses that compare the two sources.
        missing_twins: ``error`` or ``skip``.
        shuffle_shards: shards whose samples are shuffled together.
        seed: of the plan; None takes that of ``seed_everything``.
        selection: file of weights and edited captions for the samples of ``train``, made by ``bias-train curate
            select``: samples are drawn in proportion to their weights, none of weight 0, and captions read as edited.
            Evaluation stays as it is.
        image_size: side of the square pictures; None takes the retriever's.
        augment: random resized crops and mirroring.
        num_workers: loader processes on each rank.
        eval_batch_size: pictures a batch in evaluation, on each rank.
        relevance: what counts as relevant in evaluation, see :func:`datamodules.evaluation.evaluation_set`.
        prompts: class prompts where relevance is by label.
        val_limit: at most this many samples per source in evaluation.
        cache: where shards that lie elsewhere are kept on this machine, see :class:`datamodules.remote.CacheOptions`.
        max_bad_share: stop when more than this share of the pictures so far could not be read.
        force_resume: go on from a checkpoint that was written under another plan.

    Raises:
        DataError: from :meth:`setup`, for anything that the shards cannot give.
    """

    def __init__(
        self,
        train: Sequence[str] = (),
        val: Sequence[str] = (),
        share: float = 0.0,
        generators: dict[str, float] | None = None,
        mode: Mode = "replace",
        composition: Composition = "mixed",
        batch_size: int = 256,
        blocks: int = 0,
        twin_share: float = 0.0,
        missing_twins: Literal["error", "skip"] = "error",
        shuffle_shards: int = 16,
        seed: int | None = None,
        selection: str | None = None,
        image_size: int | None = None,
        augment: Augmentation | None = None,
        num_workers: int = 0,
        eval_batch_size: int = 256,
        relevance: Relevance = "auto",
        prompts: Sequence[str] = ("a photo of a {label}",),
        val_limit: int | None = None,
        cache: CacheOptions | None = None,
        max_bad_share: float = 0.01,
        force_resume: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 <= max_bad_share <= 1.0:
            raise DataError(f"data.max_bad_share must lie in [0, 1], got {max_bad_share}")
        self.spec = MixSpec(
            share, generators or {}, mode, composition, batch_size, blocks, twin_share, missing_twins, shuffle_shards,
            seed if seed is not None else 0, selection,
        )  # fmt: skip
        for location in (*train, *val):
            if is_remote(location):
                # Now, before any logger is told of the options: a location that holds a secret is refused.
                Location.parse(location)
        self._own_seed = seed
        self.train_paths, self.val_paths = tuple(train), tuple(val)
        self.twin_share = twin_share
        self.image_size: tuple[int, int] | None = (image_size, image_size) if image_size else None
        self.augment = augment or Augmentation()
        self.num_workers, self.eval_batch_size = num_workers, eval_batch_size
        self.relevance, self.prompts, self.val_limit = relevance, tuple(prompts), val_limit
        self.cache = cache or CacheOptions()
        self.max_bad_share, self.force_resume = max_bad_share, force_resume
        self.tokenize: Tokenize | None = None
        self.plan: MixingPlan | None = None
        self.evaluation: EvaluationSet | None = None
        self.start = 0
        self.seen = 0
        self.skips: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self._stored: Counter[str] = Counter()
        self._told: set[str] = set()
        self._restored: dict[str, Any] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the indexes; make the plan and the evaluation."""
        retriever = getattr(getattr(self.trainer, "lightning_module", None), "retriever", None)
        if retriever is not None:
            self.image_size = self.image_size or tuple(retriever.image_size)
            self.tokenize = self.tokenize or retriever.tokenize
        if self.image_size is None:
            raise DataError("data.image_size is not set and no retriever gives one")
        if stage in (None, "fit") and self.plan is None:
            self.plan = self.make_plan()
            if self.plan.skipped_photos:
                log.warning(
                    "%d photos without a twin are left out (data.missing_twins = skip)", self.plan.skipped_photos
                )
            if (selected := self.plan.selected) is not None:
                log.info(
                    "selection %s: %d samples left out, %d captions edited",
                    selected.digest, int(selected.left_out.sum()), len(selected.text),
                )  # fmt: skip
            self._check_restored()
        if self.val_paths and self.evaluation is None:
            self.evaluation = evaluation_set(
                self._catalogue(self.val_paths),
                relevance=self.relevance,
                prompts=self.prompts,
                limit=self.val_limit,
            )

    def make_plan(self) -> MixingPlan:
        """Make the plan of training, which needs neither a retriever nor a picture.

        Raises:
            DataError: for anything that the shards cannot give.
        """
        if not self.train_paths:
            raise DataError("data.train is empty: give folders of shards, made by `bias-train shards import`")
        spec = self.spec if self._own_seed is not None else replace(self.spec, seed=run_seed())
        return self._plan(self._catalogue(self.train_paths), spec)

    def _plan(self, catalogue: Catalogue, spec: MixSpec) -> MixingPlan:
        return MixingPlan(catalogue, spec)

    def _catalogue(self, paths: Sequence[str]) -> Catalogue:
        return Catalogue.of([ShardIndex.load(path, cache=self.cache) for path in paths])

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return an endless loader that starts where the trainer stands."""
        assert self.image_size is not None
        rank, world_size = self._place()
        self.start = self._batches_done()
        stream = self._stream(rank, world_size)
        loader = self._loader(stream)
        if self.num_workers > 0:
            assert loader.prefetch_factor is not None
            most = self._most_pictures(world_size)
            stream.ring = make_ring(self.num_workers, loader.prefetch_factor, most, self.image_size)
        return loader

    def _stream(self, rank: int, world_size: int) -> MixedStream:
        assert self.plan is not None
        assert self.image_size is not None
        return MixedStream(
            self.plan, self.image_size, self.tokenize, self.augment, rank, world_size, self.start, *self._local_place()
        )

    def _most_pictures(self, world_size: int) -> int:
        """How many pictures a device batch holds at most."""
        assert self.plan is not None
        own = self.spec.batch_size // world_size
        # Each block of a batch has its share of twins, rounded up at most.
        twins = min(own, math.ceil(own * self.twin_share) + self.plan.blocks) if self.twin_share > 0 else 0
        return own + twins

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        """Return this rank's part of the evaluation's pictures; nothing where ``data.val`` is empty."""
        if self.evaluation is None:
            return []
        assert self.image_size is not None
        return self._loader(EvaluationStream(self.evaluation, self.image_size, self.eval_batch_size, *self._place()))

    def _loader(self, stream: Any) -> DataLoader[dict[str, Any]]:
        return TimedLoader(
            stream,
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            multiprocessing_context=worker_context(self.tokenize) if self.num_workers > 0 else None,
            worker_init_fn=end_with_trainer,
        )

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _local_place(self) -> tuple[int, int]:
        """This process among those of its machine."""
        return (self.trainer.local_rank, self.trainer.num_devices) if self.trainer is not None else (0, 1)

    def _batches_done(self) -> int:
        """Batches that training has consumed: the trainer's steps, the one count that is right after every resume."""
        if self.trainer is None:
            return self.start
        return int(self.trainer.global_step) * int(self.trainer.accumulate_grad_batches)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Count pictures that could not be read, and stop where they are too many."""
        skipped = batch.get("skipped")
        if skipped is None:
            return batch
        self.seen += len(batch["image"]) + len(batch["twin"])
        self.skips.update(skip.kind for skip in skipped)
        self._stored.update(batch.get("store", {}))
        assert self.plan is not None
        counts = torch.bincount(batch["source"], minlength=len(self.plan.catalogue.sources)).tolist()
        self.delivered.update(dict(zip(self.plan.catalogue.sources, counts, strict=True)))
        for skip in skipped:
            # Each once, and not without end: a shard that is gone would fill the log.
            if skip.message not in self._told and len(self._told) < _MOST_TOLD:
                self._told.add(skip.message)
                log.warning("replaced a picture that could not be used (%s): %s", skip.kind, skip.message)
        # A tiny count says little about the share: the first thousand pictures may hold a few bad ones.
        if self.skipped > max(self.max_bad_share * self.seen, self.max_bad_share * 1000):
            raise DataError(
                f"{self.skipped} of {self.seen} training pictures could not be read, more than data.max_bad_share = "
                f"{self.max_bad_share:g} allows; the last: {skipped[-1].message}. Look with `bias-train shards inspect "
                "--decode`, mend the shards, or raise data.max_bad_share"
            )
        return batch

    def store_counts(self) -> Counter[str]:
        """What this rank's loaders asked of the shards' stores so far: hits and misses of the cache, and so on."""
        return self._stored

    @property
    def skipped(self) -> int:
        """Pictures replaced so far on this rank because they could not be used."""
        return self.skips.total()

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: what was consumed, and the plan it was consumed under."""
        assert self.plan is not None
        return {"samples": self._batches_done() * self.spec.batch_size, "plan": self.plan.fingerprint_parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the checkpoint's plan with this run's.

        Raises:
            DataError: naming the difference, unless ``force_resume``.
        """
        self._restored = state_dict
        self._check_restored()

    def _check_restored(self) -> None:
        if self._restored is None or self.plan is None:
            return
        then, now = self._restored["plan"], self.plan.fingerprint_parts
        changes = plan_differences(then, now)
        if changes and not self.force_resume:
            raise DataError(
                f"the checkpoint was written under another mixing plan ({changes}): restore the old values, start a "
                "new run, or set data.force_resume = true"
            )


def run_seed() -> int:
    """Return the seed of ``seed_everything``, 0 where none was set."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
