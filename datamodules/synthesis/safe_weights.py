"""Weights are read from safetensors alone: a pickle is a program, and loading it runs it."""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path

from datamodules.errors import DataError

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5"})
_WEIGHTS = re.compile(r"(?:pytorch_)?model|diffusion_pytorch_model|flax_model|tf_model")
_DIGESTED = frozenset({".json", ".safetensors", ".txt", ".model", ".py"})


def check_folder(folder: Path, model: str) -> None:
    """Refuse a pipeline folder in which a component has weights, but not as safetensors.

    Args:
        folder: of the pipeline.
        model: what to call it.

    Raises:
        DataError: naming the file.
    """
    if not (folder / "model_index.json").is_file():
        raise DataError(f"{model}: is no folder of a diffusers pipeline, it has no model_index.json")
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = [path for path in sorted(part.iterdir()) if path.is_file()]
        pickles = [path for path in files if path.suffix in _PICKLES and _WEIGHTS.match(path.name)]
        if pickles and not any(path.suffix == ".safetensors" for path in files):
            raise DataError(
                f"{model}: {part.name}/{pickles[0].name} is a pickle, which can run code when it is read, and there "
                "are no safetensors beside it; convert it with `save_pretrained(folder, safe_serialization=True)`"
            )


def folder_digest(folder: Path) -> str:
    """Hash what decides a pipeline's pictures: its configuration, its vocabulary and its weights.

    Returns:
        ``blake2b:`` and 32 hexadecimal digits; in the record they stand where the hub has a commit.
    """
    total = blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix not in _DIGESTED or not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        with path.open("rb") as file:
            own = blake2b(digest_size=16)
            while chunk := file.read(2**22):
                own.update(chunk)
        total.update(f"{inside.as_posix()} {own.hexdigest()}\n".encode())
    return f"blake2b:{total.hexdigest()}"
