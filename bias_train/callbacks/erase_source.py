"""Training-free removal of source bias at the end of a training: fit, evaluate through it, fold it in."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from bias_train.callbacks.axis import run_folder
from bias_train.callbacks.weights import InterpolateToStart
from bias_train.embed import as_embeddings
from bias_train.embeddings import Embeddings
from bias_train.erasure.calibration import unit
from bias_train.erasure.evaluation import before_and_after
from bias_train.erasure.fitting import ErasureSpec, fit_eraser
from bias_train.erasure.strength import FigureChoice, tune
from bias_train.errors import RunError
from bias_train.files import write_json
from datamodules.catalogue import Catalogue
from datamodules.decode import decode_and_fit
from datamodules.errors import SampleError
from datamodules.evaluation import EvaluationSet, evaluation_set
from datamodules.plan import MixingPlan
from models.embedded import EmbeddedSet, gather_uneven
from models.erasure import LinearEraser, projection_of
from models.module import RetrieverModule

ERASER = "eraser.safetensors"
REPORT = "erasure.json"


class SourceErasure(pl.Callback):
    """Takes the direction of the source out of the trained retriever's picture embeddings.

    Training itself is as it was: no loss, no twin and no gradient is involved. Before the evaluation at the last step
    a sample of the *training* pictures of both sources is embedded (as many of both within every class, or photos with
    their twins; never the evaluation's) and an eraser fitted on it. The figures that all axis callbacks record at the
    last step, under their usual names, are those of the erased retriever; earlier steps' are not.

    In the run folder: ``eraser.safetensors``; ``erasure.json``, the evaluation before and after; and
    ``retriever.safetensors`` with the eraser folded into its projection, which needs nothing beside it, whereas
    ``retriever_unerased.safetensors`` and the checkpoints hold the weights as they were trained.

    On several ranks each embeds a part of the sample. A run that resumes fits again, on the same pictures.

    As an arm of a sweep, a file with::

        trainer:
          callbacks+:
            - class_path: bias_train.callbacks.erase_source.SourceErasure
              init_args: {method: leace}

    Args:
        method: "leace" (arXiv 2306.03819; needs the extra ``erasure``); "projection" on the complement of the
            displacement between the sources (arXiv 2604.06163; by class means where there are no pairs, ours);
            "correction" of all scores by how generated a picture looks (after CDC, arXiv 2503.08684; the linear form is
            ours), which goes with strength "tuned".
        rank: of the projection.
        strength: 1 erases, less goes a part of the way; "tuned" bisects for ``target_delta`` on the calibration sample.
        target_delta: Relative Delta that "tuned" aims for, in percent: 0 for no preference, or what a retriever
            trained on photos alone has.
        figure: which Relative Delta "tuned" looks at: R@k, NDCG@k or P@k; None takes R@1 for scenes, P@100 for classes.
        per_generator: LEACE with a label for each generator instead of one for all.
        rounds: LEACE fitted anew to what renormalising has brought back; 3 leave a linear probe next to nothing.
        calibration_pictures: about how many training pictures to fit on. Give several times the embedding's width.
        fold: fold the eraser into ``retriever.safetensors``; off where a tower cannot take it, such as SigLIP's, whose
            file then holds the weights as trained.
        seed: of the sample.

    Raises:
        RunError: before the first step, for data or callbacks that this cannot work with.
        ModelError: before the first step, where the tower cannot take the eraser.
    """

    def __init__(
        self,
        method: Literal["leace", "projection", "correction"] = "leace",
        rank: int = 1,
        strength: float | Literal["tuned"] = 1.0,
        target_delta: float = 0.0,
        figure: str | None = None,
        per_generator: bool = False,
        rounds: int = 1,
        calibration_pictures: int = 2000,
        fold: bool = True,
        seed: int = 0,
    ) -> None:
        self.spec = ErasureSpec(method, rank, per_generator=per_generator, rounds=rounds, seed=seed)
        if strength != "tuned" and not (isinstance(strength, int | float) and strength >= 0):
            raise RunError(f'SourceErasure: strength is {strength!r}; give a share from 0 up, or "tuned"')
        if calibration_pictures < 4:
            raise RunError(f"SourceErasure: calibration_pictures is {calibration_pictures}; give several hundred")
        self.strength = strength
        self.target_delta = target_delta
        self.figure = None if figure is None else FigureChoice.parse(figure)
        self.calibration_pictures = calibration_pictures
        self.fold = fold
        self.seed = seed

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse now what would fail after hours."""
        module = _module(pl_module)
        module.eraser = None  # a module that is trained once more begins anew
        module.fold_eraser = self.fold
        if self.spec.method == "leace" and find_spec("concept_erasure") is None:
            raise RunError("SourceErasure: LEACE needs concept-erasure: pip install 'bias-train[erasure]'")
        _check_callbacks(trainer, self)
        if self.fold:
            projection_of(module.retriever)
        catalogue = _catalogue(trainer)
        if len(catalogue.photos) == 0 or not (catalogue.picture_source > 0).any():
            raise RunError(
                "SourceErasure is fitted on training pictures of both sources, but data.train holds one alone: add "
                "shards of the other (with data.share 0 they are not trained on)"
            )
        evaluation = getattr(getattr(trainer, "datamodule", None), "evaluation", None)
        if isinstance(evaluation, EvaluationSet):
            held = {shard.sha256 for index in evaluation.corpus.indexes for shard in index.shards}
            shared = [s.name for index in catalogue.indexes for s in index.shards if s.sha256 in held]
            if shared:
                raise RunError(f"SourceErasure: data.train and data.val share the shard {shared[0]}: it would be "
                               "calibrated on what it is judged on")  # fmt: skip
            every = trainer.val_check_interval
            if isinstance(every, int) and trainer.max_steps * trainer.accumulate_grad_batches % every:
                raise RunError(
                    f"SourceErasure evaluates at the last step, but trainer.val_check_interval = {every} does not "
                    f"divide trainer.max_steps = {trainer.max_steps}"
                )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit, before the last evaluation."""
        if not trainer.sanity_checking and trainer.global_step >= trainer.max_steps:
            _module(pl_module).eraser = self._fit(trainer, _module(pl_module))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Describe what the eraser does to the evaluation."""
        module = _module(pl_module)
        if module.eraser is None or trainer.sanity_checking:
            return
        embedded = module.embedded_set(erased=False)
        folder = run_folder(trainer)
        if trainer.is_global_zero and folder is not None:
            write_json(folder / REPORT, self._report(_from_evaluation(embedded), module.eraser))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the eraser; the run folder then writes the retriever through it."""
        module = _module(pl_module)
        if trainer.interrupted:
            return
        if module.eraser is None:  # evaluated by a start that was killed afterwards, or never
            module.eraser = self._fit(trainer, module)
        if trainer.is_global_zero:
            folder = run_folder(trainer) or Path(trainer.default_root_dir)
            module.eraser.save(folder / ERASER)

    @property
    def _needs_queries(self) -> bool:
        return self.strength == "tuned" or self.spec.method == "correction"

    def _fit(self, trainer: pl.Trainer, module: RetrieverModule) -> LinearEraser:
        """Embed the sample and fit, with the same outcome on every rank (a collective call)."""
        calibration = self._calibration(trainer, module)
        eraser = fit_eraser(calibration, self.spec)
        if self.strength == "tuned":
            figure = self.figure or FigureChoice.usual(calibration.relevance)
            evaluation = module.trainer.datamodule.evaluation  # type: ignore[attr-defined]
            if evaluation is not None:
                # The top of a smaller gallery lies deeper in it, where the preference is weaker.
                figure = figure.scaled(len(calibration) / len(evaluation))
            return tune(eraser, calibration, figure, self.target_delta, self.seed)[0]
        return eraser.at(float(self.strength))

    def _calibration(self, trainer: pl.Trainer, module: RetrieverModule) -> Embeddings:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        catalogue = _catalogue(trainer)
        sample = evaluation_set(
            catalogue,
            relevance=data.relevance,
            prompts=data.prompts,
            limit=max(2, self.calibration_pictures // 2),
            seed=self.seed,
        )
        training = module.retriever.training
        module.retriever.eval()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            rows, image = self._pictures(trainer, module, sample)
            text = self._queries(trainer, module, sample) if self._needs_queries else None
        module.retriever.train(training)
        # Pictures that could not be read are left out again with their rows.
        table = torch.zeros(len(sample), image.shape[1]).index_copy(0, rows, image)
        everything = as_embeddings(sample, table, text)
        return unit(everything.pictures(np.sort(rows.numpy())))

    def _pictures(self, trainer: pl.Trainer, module: RetrieverModule, sample: EvaluationSet) -> tuple[Tensor, Tensor]:
        """Row numbers [n] and embeddings [n, D] of all pictures that can be read: what training skips, this skips."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        index, rows = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, module.retriever.embed_dim)]
        mine = np.arange(trainer.global_rank, len(sample), trainer.world_size)
        for part in np.split(mine, range(data.eval_batch_size, len(mine), data.eval_batch_size)):
            kept, pictures = [], []
            for row, place in zip(part.tolist(), sample.corpus.places(sample.picture[part]), strict=True):
                try:
                    pictures.append(decode_and_fit(place.read(), module.retriever.image_size, sample.keys[row]))
                    kept.append(row)
                except SampleError:
                    continue
            if kept:
                images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(module.device)
                index.append(torch.tensor(kept))
                rows.append(module.retriever.encode_image(images).float().cpu())
        return gather_uneven(torch.cat(index), module.device), gather_uneven(torch.cat(rows), module.device)

    def _queries(self, trainer: pl.Trainer, module: RetrieverModule, sample: EvaluationSet) -> Tensor:
        """[Q, D] on every rank."""
        mine = torch.arange(trainer.global_rank, len(sample.queries), trainer.world_size)
        rows = [torch.zeros(0, module.retriever.embed_dim)]
        for part in mine.split(module.query_batch_size):
            tokens = module.retriever.tokenize([sample.queries[i] for i in part.tolist()])
            rows.append(module.retriever.encode_text(tokens.to(module.device)).float().cpu())
        index, text = gather_uneven(mine, module.device), gather_uneven(torch.cat(rows), module.device)
        return torch.zeros_like(text).index_copy(0, index, text)

    def _report(self, evaluation: Embeddings, eraser: LinearEraser) -> dict[str, Any]:
        figure = self.figure or FigureChoice.usual(evaluation.relevance)
        before, after = before_and_after(evaluation, eraser, (figure,), None, self.seed)
        return {
            "spec": asdict(self.spec),
            "strength": eraser.strength,
            "fitted": eraser.metadata,
            "evaluation": {"before": before.record(), "after": after.record()},
        }


def _module(module: pl.LightningModule) -> RetrieverModule:
    assert isinstance(module, RetrieverModule)
    return module


def _catalogue(trainer: pl.Trainer) -> Catalogue:
    plan = getattr(getattr(trainer, "datamodule", None), "plan", None)
    if not isinstance(plan, MixingPlan):
        raise RunError("SourceErasure takes its sample from the training shards: use MixedSourceDataModule")
    return plan.catalogue


def _check_callbacks(trainer: pl.Trainer, own: SourceErasure) -> None:
    """What is erased must be what is written."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, InterpolateToStart) for callback in callbacks):
        raise RunError(
            "SourceErasure and InterpolateToStart cannot go together: the erased weights would be others than those "
            "that are written; keep one of them"
        )
    later = callbacks[callbacks.index(own) :]
    if any(isinstance(callback, WeightAveraging) for callback in later):
        raise RunError("trainer.callbacks: list SourceErasure after the moving average, whose weights it is to fit")


def _from_evaluation(embedded: EmbeddedSet) -> Embeddings:
    evaluation = embedded.evaluation
    assert isinstance(evaluation, EvaluationSet)
    return as_embeddings(evaluation, embedded.image, embedded.text)
