"""A learned token before the class name in class prompts (Defense-Prefix)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import ModelError
from models.retriever import MAX_LOGIT_SCALE, Retriever
from models.short_text import encode_embedded, end_of_text, short_tower
from models.tensor_file import read_tensors, write_tensors

MARKER = "[prefix]"
"""Where the token goes in a prompt: ``a photo of a [prefix] dog``."""

TEMPLATES = ("a photo of a {label}",)

_KIND, _COMMAND = "class prefix", "bias-train remedy text prefix"
_PLACE = -1  # a token number that no tokenizer gives, and below that of any end of text


@dataclass(frozen=True)
class ClassPrefix:
    """A token embedding that class names are preceded by.

    Attributes:
        vector: [W] float32, W the width of the text tower.
        about: how it was trained; whatever JSON holds.
    """

    vector: Tensor
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write one ``.safetensors`` with ``vector`` and the record as JSON."""
        write_tensors(Path(path), {"vector": self.vector.float().contiguous()}, _KIND, self.about)

    @classmethod
    def load(cls, path: Path) -> ClassPrefix:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: where the file is missing or is something else.
        """
        tensors, record = read_tensors(Path(path), _KIND, _COMMAND)
        return cls(tensors["vector"], record)


class PrefixTokenizer:
    """A retriever's tokenizer that leaves a place for the token where a caption has ``[prefix]``; picklable.

    Attributes:
        plain: the retriever's.
        context_length: L.
    """

    def __init__(self, plain: Any, context_length: int) -> None:
        self.plain, self.context_length = plain, context_length

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions to int64 [B, L'], -1 where the token goes; captions without a place are as they were.

        Raises:
            ModelError: for two places in one caption, or one behind the end of the context.
        """
        parts = [caption.split(MARKER) for caption in captions]
        twice = next((caption for caption, part in zip(captions, parts, strict=True) if len(part) > 2), None)
        if twice is not None:
            raise ModelError(f"{twice!r} has {MARKER} more than once; the token goes before one class name")
        tokens: Tensor = self.plain([" ".join(" ".join(part).split()) if len(part) > 1 else part[0] for part in parts])
        rows = [row for row, part in enumerate(parts) if len(part) > 1]
        if not rows:
            return tokens
        before: Tensor = self.plain([parts[row][0].strip() for row in rows])
        found = F.pad(tokens, (0, 1))
        for row, start in zip(rows, before, strict=True):
            place = int(end_of_text(start[None])[0])
            if not torch.equal(tokens[row, :place], start[:place]) or place >= self.context_length - 2:
                raise ModelError(
                    f"{captions[row]!r}: there is no place for {MARKER} within {self.context_length} tokens; write a "
                    "shorter prompt, with spaces around it"
                )
            found[row, place] = _PLACE
            found[row, place + 1 :] = tokens[row, place:]
        if found.shape[1] > self.context_length:
            # What was cut loses one token more, and ends as the tokenizer ends what it cuts.
            ends = found.max(dim=1).values
            found = found[:, : self.context_length].contiguous()
            cut = (found != ends[:, None]).all(dim=1)
            found[cut, -1] = ends[cut]
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> PrefixTokenizer:
        return self


def text_tower(retriever: Retriever) -> Any:
    """The text tower, where a token embedding can be put among a caption's.

    Raises:
        ModelError: for a tower other than open_clip's causal one, which CLIP has.
    """
    model = getattr(retriever, "model", None)
    tower = short_tower(model) if isinstance(model, nn.Module) else None
    if tower is None:
        kind = type(getattr(model, "text", model)).__name__
        raise ModelError(
            f"a learned prefix needs open_clip's causal text tower, as CLIP has it, with a token_embedding; this is a "
            f"{kind}, whose embeddings cannot be reached"
        )
    return tower


def encode_text_with_prefix(retriever: Retriever, tokens: Tensor, vector: Tensor) -> Tensor:
    """Embed captions with a token embedding of one's own.

    Args:
        retriever: an open_clip one.
        tokens: [B, L] int64 of :class:`PrefixTokenizer`.
        vector: [W] float, which stands where a token is -1; gradients reach it.

    Returns:
        [B, D] float32, L2-normalised.

    Raises:
        ModelError: for another text tower, or another width.
    """
    tower = text_tower(retriever)
    width = tower.token_embedding.embedding_dim
    if tuple(vector.shape) != (width,):
        raise ModelError(f"the prefix is {tuple(vector.shape)}, but the text tower's tokens are {width} wide")
    place = tokens < 0
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens.clamp(min=0)).to(dtype)
    x = torch.where(place.unsqueeze(2), vector.to(x.device, dtype), x)
    return F.normalize(encode_embedded(tower, x, end_of_text(tokens)).float(), dim=-1)


@dataclass(frozen=True)
class PrefixTraining:
    """How a prefix is trained: Azuma and Matsui 2023, "Defense-Prefix for preventing typographic attacks on CLIP".

    ``L = CE(s(attacked picture, prompts with the token), class) + keep * KL(p(clean picture | plain prompts) ||
    p(clean picture | prompts with the token))``, everything but the token frozen. From the paper's code: SGD at 0.002
    which falls as a cosine to 5e-5, batches of 512, one template a step, a start from N(0, 0.02). Ours: ``steps`` for
    10 epochs of ImageNet-100, which are about as many; s and p use the retriever's own logit scale.

    Attributes:
        keep: weight of the second term.
        rate: of SGD at first.
        last_rate: of SGD at last.
        steps: of training.
        batch: pictures a step; fewer where there are fewer.
        start: standard deviation of the first token.
        seed: of the start, the batches and the templates.
    """

    keep: float = 3.0
    rate: float = 0.002
    last_rate: float = 5e-5
    steps: int = 2500
    batch: int = 512
    start: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.keep >= 0 and self.rate >= self.last_rate >= 0 and self.start >= 0):
            raise ModelError(
                f"PrefixTraining: keep {self.keep}, start {self.start} and the rates {self.rate} to {self.last_rate} "
                "must be 0 or more, and the rate must not rise"
            )
        if self.steps < 1 or self.batch < 1:
            raise ModelError(f"PrefixTraining: steps is {self.steps} and batch {self.batch}; give 1 or more of each")

    def fit(
        self,
        retriever: Retriever,
        labels: Sequence[str],
        attacked: Tensor,
        clean: Tensor,
        label: Tensor,
        templates: Sequence[str] = TEMPLATES,
    ) -> ClassPrefix:
        """Train a prefix. The retriever stays as it is; one seed gives the same token on the same machine.

        Args:
            retriever: an open_clip one.
            labels: [C] names of the classes.
            attacked: [n, D] pictures with another class's name written on them, as the retriever embeds them.
            clean: [m, D] pictures without it; the same ones or others.
            label: [n] int64, what the attacked ones show.
            templates: with ``{label}``.

        Raises:
            ModelError: for another text tower, fewer than two classes, a template without a place for the class, or
                rows that do not fit.
        """
        tower = text_tower(retriever)
        if len(labels) < 2:
            raise ModelError(f"a prefix is trained to tell classes apart, but there are {len(labels)}")
        if len(attacked) != len(label) or not len(attacked) or not len(clean):
            raise ModelError(
                f"{len(attacked)} attacked pictures have {len(label)} labels, beside {len(clean)} clean ones: give "
                "one label each, and some of both"
            )
        if not 0 <= int(label.min()) <= int(label.max()) < len(labels):
            raise ModelError(f"label holds {int(label.max())}, but there are {len(labels)} classes, counted from 0")
        tokenize = PrefixTokenizer(retriever.tokenize, retriever.context_length)
        device = next(retriever.parameters()).device
        prompts = [tokenize(with_prefix(template, labels)).to(device) for template in templates]
        kept = _frozen(retriever)
        try:
            with torch.no_grad():
                plain = [
                    retriever.encode_text(retriever.tokenize([one.format(label=name) for name in labels]).to(device))
                    for one in templates
                ]
            scale = retriever.logit_scale.detach().to(device)
            generator = torch.Generator().manual_seed(self.seed)
            width = tower.token_embedding.embedding_dim
            vector = nn.Parameter((self.start * torch.randn(width, generator=generator)).to(device))
            optimizer = torch.optim.SGD([vector], lr=self.rate)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps, eta_min=self.last_rate)
            sides = F.normalize(attacked.float(), dim=1).to(device), F.normalize(clean.float(), dim=1).to(device)
            target = label.to(device)
            losses: list[Tensor] = []
            with torch.enable_grad():
                for _ in range(self.steps):
                    one = int(torch.randint(len(templates), (), generator=generator))
                    attack_rows, clean_rows = (
                        torch.randint(len(rows), (min(self.batch, len(rows)),), generator=generator).to(device)
                        for rows in sides
                    )
                    text = encode_text_with_prefix(retriever, prompts[one], vector)
                    right = F.cross_entropy(scale * sides[0][attack_rows] @ text.T, target[attack_rows])
                    asked = sides[1][clean_rows]
                    moved = F.kl_div(
                        (scale * asked @ text.T).log_softmax(dim=1),
                        (scale * asked @ plain[one].T).log_softmax(dim=1),
                        log_target=True,
                        reduction="batchmean",
                    )
                    optimizer.zero_grad()
                    (right + self.keep * moved).backward()
                    optimizer.step()
                    falling.step()
                    losses = [*losses[:1], torch.stack([right.detach(), moved.detach()])]
        finally:
            _thaw(retriever, kept)
        about = {
            "method": "class prefix",
            **asdict(self),
            "classes": len(labels),
            "templates": list(templates),
            "attacked pictures": len(attacked),
            "clean pictures": len(clean),
            "loss before": losses[0].tolist(),
            "loss after": losses[-1].tolist(),
        }
        return ClassPrefix(vector.detach().float().cpu(), about)


def with_prefix(template: str, labels: Sequence[str]) -> list[str]:
    """Class prompts with the marker before the name.

    Raises:
        ModelError: for a template without ``{label}``, or one in which it is part of a word.

    Example:
        >>> with_prefix("a photo of a {label}", ["dog"])
        ['a photo of a [prefix] dog']
    """
    start, place, _ = template.partition("{label}")
    if not place or (start and not start[-1].isspace()):
        raise ModelError(f"the template {template!r} has no {{label}} behind a space, before which a token could stand")
    return [template.replace("{label}", f"{MARKER} {label}") for label in labels]


def _frozen(retriever: Retriever) -> tuple[bool, list[nn.Parameter]]:
    """Freeze for a while: what was trainable, and whether it was training."""
    trained = [parameter for parameter in retriever.parameters() if parameter.requires_grad]
    training = retriever.training
    retriever.requires_grad_(False).eval()
    return training, trained


def _thaw(retriever: Retriever, kept: tuple[bool, list[nn.Parameter]]) -> None:
    training, trained = kept
    for parameter in trained:
        parameter.requires_grad_(True)
    retriever.train(training)


class PrefixRetriever(Retriever):
    """A retriever whose class prompts may hold a learned token.

    Where a caption has ``[prefix]``, the token stands there; every other caption is embedded as before. So it is asked
    with ``a photo of a [prefix] {label}``. It is for class prompts only: the token was trained to stand before class
    names, and does nothing for captions, which have no place for it.

    Args:
        base: an open_clip retriever.
        prefix: what ``bias-train remedy text prefix`` wrote, or its path.

    Raises:
        ModelError: for another text tower or width.
    """

    vector: Tensor

    def __init__(self, base: Retriever, prefix: ClassPrefix | str) -> None:
        super().__init__()
        found = prefix if isinstance(prefix, ClassPrefix) else ClassPrefix.load(Path(prefix))
        width = text_tower(base).token_embedding.embedding_dim
        if tuple(found.vector.shape) != (width,):
            raise ModelError(f"the prefix is {tuple(found.vector.shape)}, but the text tower's tokens are {width} wide")
        self.base = base
        self.register_buffer("vector", found.vector.clone())
        self.preprocess, self.embed_dim, self.context_length = base.preprocess, base.embed_dim, base.context_length
        self.tokenize = PrefixTokenizer(base.tokenize, base.context_length)

    @property
    def model(self) -> Any:
        """The base's model."""
        return self.base.model

    def encode_image(self, images: Tensor) -> Tensor:
        """See :meth:`Retriever.encode_image`."""
        return self.base.encode_image(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """See :meth:`Retriever.encode_text`."""
        if not bool((tokens < 0).any()):
            return self.base.encode_text(tokens)
        return encode_text_with_prefix(self.base, tokens, self.vector)

    @property
    def logit_scale(self) -> Tensor:
        """See :attr:`Retriever.logit_scale`."""
        return self.base.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """See :attr:`Retriever.logit_bias`."""
        return self.base.logit_bias

    def clamp_logit_scale(self, maximum: float = MAX_LOGIT_SCALE) -> None:
        """See :meth:`Retriever.clamp_logit_scale`."""
        self.base.clamp_logit_scale(maximum)

    def tower_of(self, parameter: str) -> Literal["image", "text", "head"]:
        """See :meth:`Retriever.tower_of`."""
        return "text" if parameter == "vector" else self.base.tower_of(parameter.removeprefix("base."))

    def save_weights(self, path: str) -> None:
        """Write the base's weights; the prefix is a file of its own."""
        self.base.save_weights(path)
