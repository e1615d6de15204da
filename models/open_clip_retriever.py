"""Any open_clip architecture as a retriever: by name, or from a JSON file of one's own."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, cast

import open_clip
import torch
import torch.nn.functional as F
from open_clip.factory import load_checkpoint
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from models.errors import ModelError
from models.freeze import batch_norms, folded_batch_norms, freeze_image, is_frozen
from models.last_block import class_token_tower, encode_class_token
from models.retriever import MAX_LOGIT_SCALE, Preprocess, Retriever, as_made_before
from models.short_text import cut, encode, short_tower

log = logging.getLogger(__name__)

_IN_A_RUN = "retriever.model."
"""What precedes open_clip's names in the checkpoints that training writes."""


class Tokenizer:
    """open_clip's tokenizer with the context length of its model; picklable, and not copied with a model.

    Attributes:
        context_length: L.
        short: cut behind the longest caption, see :mod:`models.short_text`.
    """

    def __init__(self, tokenizer: Any, context_length: int, short: bool = False) -> None:
        self._tokenizer = tokenizer
        self.context_length, self.short = context_length, short

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions to int64 [B, L], cut or padded to ``context_length``, or to less where that is enough for all."""
        if not captions:
            return torch.zeros(0, self.context_length, dtype=torch.int64)
        tokens = cast(Tensor, self._tokenizer(list(captions), context_length=self.context_length))
        return cut(tokens) if self.short else tokens

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokenizer:
        return self


class OpenClipRetriever(Retriever):
    """An open_clip model.

    The initial weights depend on the seed alone (``seed_everything``), not on what has drawn random numbers before the
    model was made, so a change to the data leaves them as they are.

    Args:
        name: an open_clip architecture, such as ``ViT-B-32``; None with ``config``.
        pretrained: a tag that open_clip knows for ``name`` (fetched once, then cached), or the path of a local
            checkpoint: ``.safetensors`` or ``.pt`` in open_clip's form, or a ``.ckpt`` that training wrote. None starts
            from random weights.
        config: path of a JSON file with ``embed_dim``, ``vision_cfg`` and ``text_cfg``, in the form that
            ``open_clip.add_model_config`` reads, or an ``open_clip_config.json`` that holds it as ``model_cfg``.
        lock_image: freeze the image tower (LiT, Zhai et al. 2022).
        unlocked_groups: with ``lock_image``, how many groups to leave trainable, counted from the output: the
            projection is the first, then one block or stage each.
        freeze_bn_stats: keep the running statistics of frozen batch norms as well: where they drift, a frozen tower
            changes its output all the same. ``all`` keeps, and normalises by, the statistics of trained ones too, for
            small batches, and for weights whose statistics were folded into the convolutions: of those a training by
            the statistics of its batches leaves nothing.
        lock_text: freeze the text tower.
        unlocked_layers: with ``lock_text``, how many layers to leave trainable, counted from the output: the
            projection is the first, then one block each.
        grad_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        channels_last: lay the image tower's tensors out as NHWC, which convolutions are faster with.
        compile: ``torch.compile`` both towers.

    Raises:
        ModelError: if the architecture, the file or the tag does not exist, or does not fit the weights.
    """

    model: Any  # open_clip's classes share no base that says what they have

    def __init__(
        self,
        name: str | None = None,
        pretrained: str | None = None,
        config: str | None = None,
        lock_image: bool = False,
        unlocked_groups: int = 0,
        freeze_bn_stats: bool | Literal["all"] = True,
        lock_text: bool = False,
        unlocked_layers: int = 0,
        grad_checkpointing: bool = False,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if (name is None) == (config is None):
            raise ModelError("give model.retriever either name (an open_clip architecture) or config (a JSON file)")
        if (unlocked_groups and not lock_image) or (unlocked_layers and not lock_text):
            raise ModelError("unlocked_groups needs lock_image, and unlocked_layers needs lock_text")
        if unlocked_groups < 0 or unlocked_layers < 0:
            raise ModelError("unlocked_groups and unlocked_layers count groups from the output: give 0 or more")
        known, preprocess_cfg = (_known(name), {}) if name is not None else _register(Path(str(config)))
        tag, path = _weights(known, name, pretrained)
        with _seeded(), _quiet():
            self.model = _create(known, tag, preprocess_cfg)
        if path is not None:
            _load(self.model, path)

        short = short_tower(self.model) is not None
        self.tokenize = Tokenizer(_tokenizer(known), int(self.model.context_length), short)
        self.context_length = int(self.model.context_length)
        self.preprocess = _preprocess(self.model.visual)
        self._channels_last = channels_last
        if channels_last:
            self.model.visual.to(memory_format=torch.channels_last)
        if lock_image:
            freeze_image(self.model.visual, unlocked_groups)
        if lock_text:
            self.model.lock_text_tower(unlocked_layers=unlocked_layers)
        self._frozen_image = is_frozen(self.model.visual.parameters())
        self._frozen_text = is_frozen(p for n, p in self.named_parameters() if self.tower_of(n) == "text")
        self._kept_in_eval: list[str] = []
        if self._frozen_image and freeze_bn_stats:
            self._kept_in_eval = [""]
        elif freeze_bn_stats == "all" or (lock_image and freeze_bn_stats):
            self._kept_in_eval = batch_norms(self.model.visual, frozen_only=freeze_bn_stats != "all")
        if pretrained is not None and folded_batch_norms(self.model.visual, self._kept_in_eval):
            log.warning(
                "the trained batch norms of %s hold no statistics (mean 0, variance 1), as when they were folded into "
                "the convolutions: by the statistics of its batches the first step of a training would change what "
                "the image tower computes; set model.retriever.freeze_bn_stats: all",
                pretrained,
            )
        if grad_checkpointing:
            self.model.set_grad_checkpointing()
        self.embed_dim = self._width()
        if compile:
            # In place: wrapping the towers would rename every weight, and with it every checkpoint.
            self.model.visual.compile()
            tower = short_tower(self.model)
            (tower.transformer if tower is not None else self.model.text).compile()

    def encode_image(self, images: Tensor) -> Tensor:
        """See :meth:`Retriever.encode_image`."""
        if images.ndim == 2:
            return as_made_before(images, self._frozen_image)
        if tuple(images.shape[-2:]) != self.image_size:
            raise ModelError(
                f"pictures of {images.shape[-2]} x {images.shape[-1]} pixels reach a tower for "
                f"{self.image_size[0]} x {self.image_size[1]}: set data.image_size to the tower's size"
            )
        pixels = self.preprocess.normalise(images)
        if self._channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        # In a run at bf16-true the weights are bf16 and there is no autocast that would convert the pictures.
        pixels = pixels.to(next(self.model.visual.parameters()).dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen_image):
            tower = class_token_tower(self.model.visual)
            image = self.model.encode_image(pixels) if tower is None else encode_class_token(tower, pixels)
            return F.normalize(image.float(), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """See :meth:`Retriever.encode_text`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen_text):
            tower = short_tower(self.model)
            text = self.model.encode_text(tokens) if tower is None else encode(tower, tokens)
            return F.normalize(text.float(), dim=-1)

    @property
    def logit_scale(self) -> Tensor:
        """See :attr:`Retriever.logit_scale`."""
        return self.model.logit_scale.float().exp().reshape(())

    @property
    def logit_bias(self) -> Tensor | None:
        """See :attr:`Retriever.logit_bias`."""
        return self.model.logit_bias.float().reshape(()) if self.model.logit_bias is not None else None

    @torch.no_grad()
    def clamp_logit_scale(self, maximum: float = MAX_LOGIT_SCALE) -> None:
        """See :meth:`Retriever.clamp_logit_scale`."""
        self.model.logit_scale.clamp_(0.0, torch.tensor(maximum).log().item())

    def tower_of(self, parameter: str) -> Literal["image", "text", "head"]:
        """See :meth:`Retriever.tower_of`."""
        if parameter.startswith("model.visual."):
            return "image"
        return "head" if parameter.rsplit(".", 1)[-1] in ("logit_scale", "logit_bias") else "text"

    def train(self, mode: bool = True) -> OpenClipRetriever:
        """Switch the mode; what is frozen together with its statistics stays in evaluation mode."""
        super().train(mode)
        for name in self._kept_in_eval:
            self.model.visual.get_submodule(name).eval()
        return self

    def save_weights(self, path: str) -> None:
        """See :meth:`Retriever.save_weights`."""
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, path)

    def _width(self) -> int:
        """D, asked of the text tower: it is the cheaper one, and towers do not agree on an attribute that holds it."""
        training = self.training
        self.eval()
        with torch.no_grad():
            width = self.encode_text(self.tokenize(["a"])).shape[1]
        self.train(training)
        return width


def _known(name: str) -> str:
    if name.startswith(("hf-hub:", "local-dir:")):
        return name
    names = open_clip.list_models()
    known = name.replace("/", "-")
    if known in names:
        return known
    near = difflib.get_close_matches(known, names, n=5, cutoff=0.4)
    raise ModelError(
        f"open_clip has no architecture {name!r} (model.retriever.name); "
        + (f"the nearest are {', '.join(near)}" if near else "its names are in open_clip.list_models()")
        + ". A JSON file of one's own goes into model.retriever.config"
    )


def _register(path: Path) -> tuple[str, dict[str, Any]]:
    """Tell open_clip of a JSON file, and return the name it has there and the file's preprocessing, if any."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"model.retriever.config: cannot read {path} ({error.strerror})") from error
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"model.retriever.config: {path} is not JSON (line {error.lineno}: {error.msg})") from error
    preprocess: dict[str, Any] = {}
    if isinstance(config, dict) and "model_cfg" in config:
        config, preprocess = config["model_cfg"], config.get("preprocess_cfg", {})
    missing = [
        key for key in ("embed_dim", "vision_cfg", "text_cfg") if not isinstance(config, dict) or key not in config
    ]
    if missing:
        raise ModelError(f"model.retriever.config: {path} lacks {', '.join(missing)}; see open_clip's model_configs")
    # open_clip's registry goes by file name, so a file called ViT-B-32.json would replace the architecture of that
    # name for the whole process. The digest keeps ours apart, from open_clip's and from each other.
    canonical = json.dumps(config, sort_keys=True)
    name = f"{path.stem}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"
    if name not in open_clip.list_models():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / f"{name}.json"
            copy.write_text(canonical, encoding="utf-8")
            open_clip.add_model_config(copy)
    return name, preprocess


def _weights(known: str, name: str | None, pretrained: str | None) -> tuple[str | None, Path | None]:
    """Tell a tag from a path: ``(tag, None)``, ``(None, path)`` or two Nones."""
    if pretrained is None:
        return None, None
    path = Path(pretrained)
    if path.is_file():
        return None, path
    tags = open_clip.list_pretrained_tags_by_model(known)
    if name is not None and pretrained in tags:
        return pretrained, None
    hint = f"the tags of {name} are {', '.join(tags)}" if name is not None and tags else "give the path of a checkpoint"
    raise ModelError(f"model.retriever.pretrained: there is no file {pretrained}, and no such tag; {hint}")


def _create(known: str, tag: str | None, preprocess: dict[str, Any]) -> Any:
    try:
        model: nn.Module = open_clip.create_model(known, pretrained=tag, force_preprocess_cfg=preprocess)
    except Exception as error:
        if tag is not None:
            raise ModelError(
                f"the weights {known}/{tag} are not in the cache and cannot be fetched ({_first_line(error)}). Without "
                "a network, fetch them elsewhere and give the file's path as model.retriever.pretrained"
            ) from error
        raise ModelError(f"open_clip cannot build {known}: {_first_line(error)}") from error
    if not hasattr(model, "logit_scale") or not hasattr(model, "context_length"):
        raise ModelError(f"{known} is a {type(model).__name__}, not a dual encoder")
    return model


def _load(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".ckpt":
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
            model.load_state_dict(
                {name.removeprefix(_IN_A_RUN): t for name, t in state.items() if name.startswith(_IN_A_RUN)}
            )
        else:
            load_checkpoint(model, str(path))
    except (RuntimeError, KeyError, AttributeError, StopIteration, EOFError, SafetensorError, UnpicklingError) as error:
        raise ModelError(
            f"model.retriever.pretrained: {path} does not fit the model: {_first_line(error, 400)}"
        ) from error


def _tokenizer(known: str) -> Any:
    try:
        with _quiet():
            return open_clip.get_tokenizer(known)
    except Exception as error:
        raise ModelError(
            f"the tokenizer of {known} cannot be made ({_first_line(error)}); one from the hub needs a network once, "
            "and the extra `huggingface`"
        ) from error


def _preprocess(visual: nn.Module) -> Preprocess:
    cfg: dict[str, Any] = cast(dict[str, Any], visual.preprocess_cfg)
    size = cfg["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocess(
        size=(int(height), int(width)),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg["interpolation"],
        resize_mode=cfg["resize_mode"],
    )


@contextmanager
def _seeded() -> Iterator[None]:
    """Draw as if nothing had been drawn since the seed was set, and leave the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed())
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from warning that a model which is to start from random weights starts from random weights."""
    root = logging.getLogger()
    level, handler = root.level, logging.NullHandler()
    root.setLevel(logging.CRITICAL)
    root.addHandler(handler)  # open_clip logs on the root, which gives itself a handler for good where it has none
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def _first_line(error: BaseException, limit: int = 200) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
