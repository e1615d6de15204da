"""Small residual maps behind frozen towers, trained on finished embeddings with the losses of `losses`."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import Features, InfoNCE, KeepStart, Loss
from losses.keep import What
from models.errors import ModelError
from models.remedies.base import Calibration, Fitted, Remedy
from models.remedies.sides import Side, check_side, record

_LOGIT_SCALE = 1 / 0.07  # CLIP's first (Radford et al. 2021, section 2.5)


class ResidualMap(nn.Module):
    """``x + B relu(A sqrt(D) x + a) + b``, brought to unit length; B and b are 0 at first, so that nothing moves.

    Args:
        width: D.
        hidden: width of the hidden layer.
        generator: of A.
    """

    def __init__(self, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.inner = nn.utils.skip_init(nn.Linear, width, hidden)
        self.outer = nn.utils.skip_init(nn.Linear, hidden, width)
        nn.init.kaiming_uniform_(self.inner.weight, nonlinearity="relu", generator=generator)
        for tensor in (self.inner.bias, self.outer.weight, self.outer.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """[n, D] rows of unit length to rows of unit length."""
        moved: Tensor = x + self.outer(F.relu(self.inner(x * math.sqrt(x.shape[1]))))
        return F.normalize(moved, dim=1)


class FittedHeads(Fitted):
    """Residual maps of pictures, of queries, or of both.

    Args:
        image_map: of pictures, or None.
        text_map: of queries, or None.
        about: the metadata.
    """

    def __init__(self, image_map: ResidualMap | None, text_map: ResidualMap | None, about: dict[str, Any]) -> None:
        self.image_map, self.text_map, self.about = image_map, text_map, about

    def image(self, x: Tensor) -> Tensor:
        """Map pictures."""
        return _through(self.image_map, x)

    def text(self, x: Tensor) -> Tensor:
        """Map queries."""
        return _through(self.text_map, x)

    @property
    def metadata(self) -> dict[str, Any]:
        """How they were trained."""
        return self.about

    def state(self) -> Mapping[str, Tensor]:
        """Weights by side."""
        sides = (("image", self.image_map), ("text", self.text_map))
        return {f"{side}.{k}": v for side, one in sides if one is not None for k, v in one.state_dict().items()}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> FittedHeads:
        """Make them again."""

        def side(name: str) -> ResidualMap | None:
            own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
            if not own:
                return None
            hidden, width = own["inner.weight"].shape
            made = ResidualMap(width, hidden, torch.Generator())
            made.load_state_dict(own)
            return made

        return cls(side("image"), side("text"), dict(metadata))


@torch.no_grad()
def _through(one: ResidualMap | None, x: Tensor) -> Tensor:
    if one is None:
        return x
    weight = one.inner.weight
    if x.shape[1] != weight.shape[1]:
        raise ModelError(f"the remedy is for vectors {weight.shape[1]} wide, not for {tuple(x.shape)}")
    # Here on the vectors' device, in the map's own precision.
    moved: Tensor = one.to(x.device)(x.to(weight.dtype))
    return moved.to(x.dtype)


class TrainedHeads(Remedy):
    """Trains residual maps with one loss of `losses` against the bias, and terms that keep the rest.

    The sum that is minimised is ``weight`` times the loss, ``keep`` times the squared distance to the start
    (`KeepStart`: of people, of ordinary pictures and their captions, of words and queries that name groups, as far as
    they are mapped), and ``contrast`` times the `InfoNCE` of the calibration's pairs, where there are any. In each step
    every group has as many pictures. Adam, seeded by the calibration; some seconds on a processor. Maps are small and
    start from the identity, but they are no linear maps, and cannot be folded into a checkpoint.

    Args:
        side: what is mapped: "image", "text" or "both".
        weight: of the loss against the bias.
        keep: of the distance to the start.
        contrast: of the pairs' loss.
        steps: of the optimiser.
        learning_rate: its rate at first; it falls to 0 along a cosine.
        hidden: width of the maps' hidden layer.
        batch_size: people, and pairs, in a step.
        words_per_step: neutral words in a step.
    """

    method: str
    """Short name, for the metadata."""
    pace = 1.0
    """How many times faster than the maps a head of the loss learns: one that lags behind is fooled by turning a
    preference around, over and over, instead of by giving it up."""

    def __init__(
        self,
        side: Side = "both",
        weight: float = 1.0,
        keep: float = 1.0,
        contrast: float = 0.1,
        steps: int = 300,
        learning_rate: float = 1e-3,
        hidden: int = 128,
        batch_size: int = 512,
        words_per_step: int = 64,
    ) -> None:
        check_side(side, self)
        for name, value in (("weight", weight), ("keep", keep), ("contrast", contrast)):
            if not (math.isfinite(value) and value >= 0):
                raise ModelError(f"{type(self).__name__}: {name} is {value}; give 0 or more")
        counts = {"steps": steps, "hidden": hidden, "batch_size": batch_size, "words_per_step": words_per_step}
        for name, number in counts.items():
            if number < 1:
                raise ModelError(f"{type(self).__name__}: {name} is {number}; give 1 or more")
        if not learning_rate > 0:
            raise ModelError(f"{type(self).__name__}: learning_rate is {learning_rate}; give a number above 0")
        self.side: Side = side
        self.weight, self.keep, self.contrast = weight, keep, contrast
        self.steps, self.learning_rate, self.hidden, self.batch_size = steps, learning_rate, hidden, batch_size
        self.words_per_step = words_per_step

    @abstractmethod
    def loss(self, calibration: Calibration) -> Loss:
        """The loss against the bias, not yet prepared."""

    def _fit(self, calibration: Calibration) -> FittedHeads:
        calibration.means()  # refuses a group without pictures
        if calibration.groups < 2:
            raise ModelError(f"{type(self).__name__} compares groups, but there is one alone")
        with torch.inference_mode(False), torch.enable_grad():
            return self._train(calibration)

    def _train(self, calibration: Calibration) -> FittedHeads:
        generator = torch.Generator().manual_seed(calibration.seed)
        maps = [
            ResidualMap(calibration.width, self.hidden, generator) if self.side in (side, "both") else None
            for side in ("image", "text")
        ]
        loss = self.loss(calibration)
        loss.prepare(calibration.width, calibration.seed, len(calibration.words))
        terms = [(loss, self.weight), (KeepStart(self._kept(calibration)), self.keep)]
        if len(calibration.pair_image):
            terms.append((InfoNCE(), self.contrast))
        parameters = [p for one in maps if one is not None for p in one.parameters()]
        optimizer = torch.optim.Adam([{"params": parameters}], lr=self.learning_rate)
        if head := [*loss.parameters()]:
            optimizer.add_param_group({"params": head, "lr": self.pace * self.learning_rate})
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        draws = _Draws(calibration, self.batch_size, self.words_per_step, generator)
        averaged = self.steps - self.steps // 2
        # The mean over the second half: what adversaries chase goes in circles, whose centre is what is wanted.
        means = [torch.zeros_like(p) for p in parameters]
        history: list[float] = []
        for step in range(self.steps):
            features = draws.features(maps[0], maps[1], step)
            values = [torch.stack([*one(features).values()]).sum() for one, _ in terms]
            history.append(float(values[0].detach()))
            optimizer.zero_grad()
            torch.stack([w * value for (_, w), value in zip(terms, values, strict=True)]).sum().backward()
            optimizer.step()
            schedule.step()
            if step >= self.steps - averaged:
                for mean, parameter in zip(means, parameters, strict=True):
                    mean += parameter.detach() / averaged
        for mean, parameter in zip(means, parameters, strict=True):
            parameter.requires_grad_(False).copy_(mean)
        tenth = max(1, self.steps // 10)
        about = record(
            self.method, calibration, side=self.side, weight=self.weight, keep=self.keep, contrast=self.contrast,
            steps=self.steps, learning_rate=self.learning_rate, hidden=self.hidden, batch_size=self.batch_size,
            words=len(calibration.words), pairs=len(calibration.pair_image),
            loss_at_first=sum(history[:tenth]) / tenth, loss_at_last=sum(history[-tenth:]) / tenth,
        )  # fmt: skip
        return FittedHeads(maps[0], maps[1], about)

    def _kept(self, calibration: Calibration) -> list[What]:
        kept: list[What] = []
        if self.side != "text":
            kept += ["people", "pictures"] if len(calibration.pair_image) else ["people"]
        if self.side != "image" and len(calibration.pair_text):
            kept.append("captions")
        if self.side != "image" and len(calibration.words):
            kept.append("prompts")
        if self.side != "image" and len(calibration.group_prompts):
            kept.append("group_prompts")
        return kept or ["people"]


class _Draws:
    """Batches of a calibration's vectors, drawn with replacement."""

    def __init__(self, calibration: Calibration, size: int, words: int, generator: torch.Generator) -> None:
        # Copies: what was embedded in inference mode cannot be saved for a backward pass.
        self.image, self.words = calibration.image.clone(), calibration.words.clone()
        self.group_prompts = calibration.group_prompts.clone()
        self.pair_image, self.pair_text = calibration.pair_image.clone(), calibration.pair_text.clone()
        self.prompt_group, self.group = calibration.prompt_group.clone(), calibration.group.clone()
        self.members = [torch.nonzero(self.group == code).flatten() for code in range(calibration.groups)]
        self.each = max(2, size // calibration.groups)
        self.pairs = min(size, len(self.pair_image))
        self.some_words = min(words, len(self.words))
        self.generator = generator
        # A photo has several captions, and a caption may stand under several photos: no negatives of each other.
        self.photo = _numbers(self.pair_image)
        self.caption = _numbers(self.pair_text)

    def features(self, image_map: ResidualMap | None, text_map: ResidualMap | None, step: int) -> Features:
        """A step's batch through the maps."""

        def picture(x: Tensor) -> Tensor:
            return x if image_map is None else image_map(x)

        def query(x: Tensor) -> Tensor:
            return x if text_map is None else text_map(x)

        rows = torch.cat([own[self._draw(len(own), self.each)] for own in self.members])
        pairs = self._draw(len(self.pair_image), self.pairs)
        words = torch.arange(len(self.words))
        if self.some_words < len(words):
            words = torch.randperm(len(words), generator=self.generator)[: self.some_words]
        person, word = self.image[rows], self.words[words]
        pair, caption = self.pair_image[pairs], self.pair_text[pairs]
        return Features(
            image=picture(pair),
            text=query(caption),
            logit_scale=torch.tensor(_LOGIT_SCALE),
            source=torch.zeros_like(pairs),
            group=self.photo[pairs],
            caption_id=self.caption[pairs],
            teacher_image=pair,
            teacher_text=caption,
            person=picture(person),
            person_group=self.group[rows],
            teacher_person=person,
            prompt=query(word) if len(word) else None,
            teacher_prompt=word if len(word) else None,
            group_prompt=query(self.group_prompts) if len(self.group_prompts) else None,
            group_prompt_of=self.prompt_group if len(self.group_prompts) else None,
            teacher_group_prompt=self.group_prompts if len(self.group_prompts) else None,
            step=step,
        )

    def _draw(self, of: int, count: int) -> Tensor:
        if not count:
            return torch.empty(0, dtype=torch.int64)
        return torch.randint(of, (count,), generator=self.generator)


def _numbers(rows: Tensor) -> Tensor:
    """[m] int64, equal for equal rows of [m, D]."""
    if not len(rows):
        return torch.empty(0, dtype=torch.int64)
    return torch.unique(rows, dim=0, return_inverse=True)[1]
