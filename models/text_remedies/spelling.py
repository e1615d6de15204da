"""A learned projection that separates what a picture shows from what is written in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.erasure import LinearEraser
from models.errors import ModelError
from models.remedies.base import FittedLinear

PAIRS: dict[str, tuple[str, str, str]] = {
    "image-caption": ("image", "caption", "picture"),
    "rendered-word": ("rendered", "word", "writing"),
    "written-caption": ("written", "caption", "picture"),
    "written-word": ("written", "word", "writing"),
    "written-image": ("written", "image", "picture"),
    "written-rendered": ("written", "rendered", "writing"),
}
"""The paper's six pairs, (I, i) (T, t) (IT, i) (IT, t) (IT, I) (IT, T): both sides, and the ids by which they match."""

FORGET: Mapping[str, float] = {
    "image-caption": 1.0, "written-caption": 1.0, "written-image": 1.0,
    "rendered-word": -1.0, "written-word": -1.0, "written-rendered": -1.0,
}  # fmt: skip
"""Forget to spell: what matches a picture is drawn together, what matches its writing is not to be found again. The
signs follow the paper's idea; its numbers are not published, these are ours."""

LEARN: Mapping[str, float] = {name: -weight for name, weight in FORGET.items()}
"""Learn to spell, the opposite: a subspace that reads and sees nothing."""

PRESETS: Mapping[str, Mapping[str, float]] = {"forget": FORGET, "learn": LEARN}

Form = Literal["root", "projector"]


@dataclass(frozen=True)
class SpellingFeatures:
    """What the projection is fitted to, row by row: a picture, a caption of it, and a wrong word.

    All are float32 of width D, as a frozen retriever embeds them, brought to unit length when they are used.

    Attributes:
        image: [n, D] pictures without the word (the paper's I).
        written: [n, D] the same pictures with the word written on them (IT).
        caption: [n, D] a caption of each (i); the paper has class prompts.
        rendered: [n, D] the word drawn on an empty canvas (T).
        word: [n, D] a prompt that names the word (t).
        picture: [n] int64; rows of the same picture, or of the same caption, have one number.
        writing: [n] int64; rows of the same word have one number.
    """

    image: Tensor
    written: Tensor
    caption: Tensor
    rendered: Tensor
    word: Tensor
    picture: Tensor
    writing: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.image.shape)
        for name in ("image", "written", "caption", "rendered", "word"):
            rows: Tensor = getattr(self, name)
            if rows.ndim != 2 or tuple(rows.shape) != shape:
                raise ModelError(f"{name} is {tuple(rows.shape)}, but image is {shape}: give [n, D], row by row")
            length = rows.double().norm(dim=1)
            if not bool((length > 0).all()):
                row = int(torch.nonzero(~(length > 0))[0, 0])
                raise ModelError(f"{name}: row {row} is all zeros or no number: it has no direction")
        for name in ("picture", "writing"):
            if tuple(getattr(self, name).shape) != shape[:1]:
                raise ModelError(f"{name} is {tuple(getattr(self, name).shape)}; give one number a row, {shape[:1]}")
        if shape[0] < 2 or len(self.writing.unique()) < 2 or len(self.picture.unique()) < 2:
            raise ModelError("the projection contrasts pictures and words: give two or more of each")

    def __len__(self) -> int:
        """N, the rows."""
        return len(self.image)

    @property
    def width(self) -> int:
        """D."""
        return int(self.image.shape[1])


@dataclass(frozen=True)
class FittedSpelling(FittedLinear):
    """A fitted projection.

    As a map within the D dimensions, which `bias-train remedy apply` and `fold` take, it stands for both sides and is
    given in one of two forms:

    - "root", ``(W^T W)^(1/2)`` (ours): its cosines are those of ``W``, whatever ``W`` is, since
      ``(R x) . (R y) = (W x) . (W y)``;
    - "projector", ``W^T W``: the same where the rows of ``W`` are orthonormal; elsewhere directions that ``W`` weakens
      are weakened twice.

    Attributes:
        weight: [k, D] float64, W.
        form: which of the two the maps are.
    """

    weight: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    form: Form = "root"

    def reduced(self, x: Tensor) -> Tensor:
        """Project pictures or queries: [n, D] to [n, k] of unit length, in the dtype of ``x``."""
        return LinearMap(self.weight)(x)

    def state(self) -> Mapping[str, Tensor]:
        """W alone: the maps follow from it."""
        return {"weight": self.weight}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> FittedSpelling:
        """Make it again."""
        return fitted_spelling(state["weight"], dict(metadata))


class LinearMap:
    """``x -> W x`` brought to unit length, for a matrix of any shape."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """[n, D] to [n, k], in the dtype of ``x``.

        Raises:
            ModelError: for another width.
        """
        if x.ndim != 2 or x.shape[1] != self.weight.shape[1]:
            raise ModelError(f"the projection is for vectors {self.weight.shape[1]} wide, not for {tuple(x.shape)}")
        work = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        return F.normalize(x.to(work) @ self.weight.to(x.device, work).T, dim=1).to(x.dtype)


def fitted_spelling(weight: Tensor, about: dict[str, Any]) -> FittedSpelling:
    """Give a [k, D] matrix the maps within D dimensions that ``about["form"]`` asks for.

    Raises:
        ModelError: for another form.
    """
    form: Form = about.get("form", "root")
    one = LinearEraser(within(weight, form))
    return FittedSpelling(one, one, about, weight.double(), form)


def within(weight: Tensor, form: Form = "root") -> Tensor:
    """The map within D dimensions that stands for ``W``, see :class:`FittedSpelling`.

    Args:
        weight: [k, D] float.
        form: "root" or "projector".

    Returns:
        [D, D] float64, symmetric.

    Raises:
        ModelError: for another form.

    Example:
        >>> within(torch.tensor([[2.0, 0.0]])).tolist(), within(torch.tensor([[2.0, 0.0]]), "projector").tolist()
        ([[2.0, 0.0], [0.0, 0.0]], [[4.0, 0.0], [0.0, 0.0]])
    """
    if form not in ("root", "projector"):
        raise ModelError(f"the projection's form is {form!r}; choose root or projector")
    _, size, directions = torch.linalg.svd(weight.double(), full_matrices=False)
    power = 1 if form == "root" else 2
    return (directions.T * size**power) @ directions


@dataclass(frozen=True)
class SpellingProjection:
    """Learned projection of Materzynska et al. 2022, "Disentangling visual and written concepts in CLIP".

    ``W`` [k, D] is trained on frozen embeddings. With ``P_ab`` the symmetric cross-entropy of matching the rows of two
    sides of a batch after projection and normalisation (the paper's equations 2 to 8):

        ``L = sum over pairs of weight_ab * P_ab + gamma * ||Id - W W^T||_F``

    From the paper's code: orthogonal start, Adam at 1e-4, the rate halved every 4,000 steps, batches of 128. Ours:

    - ``temperature``: the code's logits are bare cosines (``temperature=1.0``). There no pair can reach a loss much
      below that of chance, log 128, and negative weights are bounded by themselves. At 0.1, the default, the loss
      tells near from far.
    - ``capped``: a pair with a negative weight counts up to chance, ``min(P_ab, log of the choices)``. Beyond chance a
      pair would not be forgotten but matched with the wrong ones, which is as good as knowing it.
    - rows of the same picture or word are no negatives of each other.
    - ``rate`` 1e-3 and ``steps`` instead of 30 epochs, since sets of hundreds of pictures have few steps in an epoch.

    Attributes:
        width: k; None takes half of D.
        weights: by the names of ``PAIRS``; those not named are 0.
        gamma: of the orthogonality.
        temperature: divides the cosines.
        capped: see above.
        rate: of Adam.
        halve_every: steps after which the rate is halved, again and again.
        batch: rows a step; fewer where there are fewer.
        steps: of training.
        form: of the map within D dimensions, see :class:`FittedSpelling`.
        seed: of the start and the batches.
    """

    width: int | None = None
    weights: Mapping[str, float] = field(default_factory=lambda: dict(FORGET))
    gamma: float = 1.0
    temperature: float = 0.1
    capped: bool = True
    rate: float = 1e-3
    halve_every: int = 4000
    batch: int = 128
    steps: int = 2000
    form: Form = "root"
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(self.weights.keys() - PAIRS.keys())
        if unknown:
            raise ModelError(f"SpellingProjection: there is no pair {unknown[0]!r}; there are {', '.join(PAIRS)}")
        if not any(self.weights.values()):
            raise ModelError("SpellingProjection: all weights are 0; take the preset forget or learn, or set some")
        for name, least in (("temperature", 1e-4), ("gamma", 0.0), ("rate", 1e-12)):
            if not getattr(self, name) >= least:
                raise ModelError(f"SpellingProjection: {name} is {getattr(self, name)}; give {least:g} or more")
        for name in ("halve_every", "batch", "steps"):
            if getattr(self, name) < (2 if name == "batch" else 1):
                raise ModelError(f"SpellingProjection: {name} is {getattr(self, name)}; it is too few to train with")
        within(torch.zeros(1, 1), self.form)

    def fit(self, features: SpellingFeatures) -> FittedSpelling:
        """Train on the CPU; the same seed gives the same bits on the same machine.

        Raises:
            ModelError: for a width that does not fit.
        """
        rank = features.width // 2 if self.width is None else self.width
        if not 1 <= rank <= features.width:
            raise ModelError(f"SpellingProjection: width is {rank}; give 1 to {features.width}, the embeddings' width")
        sides = {
            name: F.normalize(getattr(features, name).detach().float().cpu(), dim=1)
            for name in ("image", "written", "caption", "rendered", "word")
        }
        ids = {"picture": features.picture.cpu(), "writing": features.writing.cpu()}
        generator = torch.Generator().manual_seed(self.seed)
        weight = nn.Parameter(torch.empty(rank, features.width))
        nn.init.orthogonal_(weight, generator=generator)
        optimizer = torch.optim.Adam([weight], lr=self.rate)
        halved = torch.optim.lr_scheduler.StepLR(optimizer, step_size=self.halve_every, gamma=0.5)
        active = {name: value for name, value in self.weights.items() if value}
        order = torch.empty(0, dtype=torch.int64)
        size = min(self.batch, len(features))
        with torch.enable_grad():
            for _ in range(self.steps):
                if len(order) < size:
                    order = torch.cat([order, torch.randperm(len(features), generator=generator)])
                rows, order = order[:size], order[size:]
                loss = self.gamma * _oblique(weight)
                for name, value in active.items():
                    cost = self._pair(name, weight, sides, ids, rows)
                    loss = loss + value * cost
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                halved.step()
        return fitted_spelling(weight.detach().double(), self._about(weight, sides, ids, len(features)))

    def _pair(
        self, name: str, weight: Tensor, sides: Mapping[str, Tensor], ids: Mapping[str, Tensor], rows: Tensor
    ) -> Tensor:
        """[] the symmetric cross-entropy of one pair in a batch, capped where it is to rise."""
        one, other, by = PAIRS[name]
        a, b = (F.normalize(sides[side][rows] @ weight.T, dim=1) for side in (one, other))
        cost = matching(a, b, ids[by][rows], self.temperature)
        if self.capped and self.weights[name] < 0:
            cost = cost.minimum(chance(ids[by][rows]))
        return cost.mean()

    @torch.no_grad()
    def _about(
        self, weight: Tensor, sides: Mapping[str, Tensor], ids: Mapping[str, Tensor], count: int
    ) -> dict[str, Any]:
        """How it was fitted, and how well each pair is matched before and after, on at most 1,024 of the rows."""
        rows = torch.arange(min(count, 1024))

        def found(matrix: Tensor) -> dict[str, float]:
            result = {}
            for name, (one, other, by) in PAIRS.items():
                a, b = (F.normalize(sides[side][rows] @ matrix.T, dim=1) for side in (one, other))
                first = (a @ b.T).argmax(dim=1)
                result[name] = float((ids[by][rows][first] == ids[by][rows]).double().mean())
            return result

        return {
            "method": "spelling projection",
            **asdict(self),
            "weights": dict(self.weights),
            "width": len(weight),
            "rows": count,
            "words": len(ids["writing"].unique()),
            "matched before": found(torch.eye(weight.shape[1])),
            "matched after": found(weight),
            "orthogonality": float(_oblique(weight)),
        }


def matching(a: Tensor, b: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each row's partner, in both directions, by row.

    Args:
        a: [B, k] of unit length.
        b: [B, k] likewise; row i belongs to row i.
        ids: [B]; other rows of the same number are left out of the choices.
        temperature: divides the cosines.

    Returns:
        [2, B] natural logarithms: a's rows among b's, b's among a's.
    """
    logits = a @ b.T / temperature
    same = (ids[:, None] == ids[None, :]) & ~torch.eye(len(ids), dtype=torch.bool)
    logits = logits.masked_fill(same, -math.inf)
    target = torch.arange(len(ids))
    return torch.stack([F.cross_entropy(side, target, reduction="none") for side in (logits, logits.T)])


def chance(ids: Tensor) -> Tensor:
    """[B] what :func:`matching` costs a row where all choices are alike: the logarithm of their number."""
    others = (ids[:, None] != ids[None, :]).sum(dim=1)
    return (others + 1).double().log().float()


def _oblique(weight: Tensor) -> Tensor:
    """``||Id - W W^T||_F``; its gradient at the orthogonal start, where it is 0, is taken as 0."""
    rest = torch.eye(len(weight)) - weight @ weight.T
    square = rest.square().sum()
    return (square + 1e-12).sqrt()
