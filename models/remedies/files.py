"""Fitted remedies as files."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.errors import ModelError
from models.remedies.base import Fitted

_KEY = "remedy"  # of the metadata in the file
_HOME = "models.remedies."


def save_fitted(path: Path, fitted: Fitted) -> None:
    """Write one ``.safetensors``: the remedy's tensors as they are, its class and metadata. It appears when whole.

    Args:
        path: ends in ``.safetensors``.
        fitted: what to write.

    Raises:
        ModelError: for another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"{path}: end the file's name in .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"class": _name(type(fitted)), "metadata": fitted.metadata}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in fitted.state().items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file(tensors, str(partial), metadata={_KEY: json.dumps(document, sort_keys=True)})
    partial.replace(path)


def load_fitted(path: Path, kind: type[Fitted] | None = None) -> Fitted:
    """Read what :func:`save_fitted` wrote.

    A file says of which class it is. Only classes of this package are taken at its word, since looking one up runs its
    module's code.

    Args:
        path: the file.
        kind: the class of a remedy of one's own, which is then the only one that is read.

    Raises:
        ModelError: where the file is missing, is something else, or names a class that is not taken.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such remedy; `bias-train remedy fit` writes one") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as safetensors ({error})") from error
    if _KEY not in metadata:
        raise ModelError(f"{path}: holds no remedy; give a file that `bias-train remedy fit` wrote")
    document = json.loads(metadata[_KEY])
    if kind is not None and document["class"] != _name(kind):
        raise ModelError(f"{path}: is of class {document['class']}, not {_name(kind)}")
    return (kind or _class(path, document["class"])).of(tensors, document["metadata"])


def _name(kind: type[Fitted]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _class(path: Path, name: str) -> type[Fitted]:
    module, _, kind = name.rpartition(".")
    if not name.startswith(_HOME):
        raise ModelError(f"{path}: is of class {name}, which is none of {_HOME}*; load it in Python, naming the class")
    try:
        found = getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{path}: is of class {name}, which this version does not have ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Fitted)):
        raise ModelError(f"{path}: is of class {name}, which is no fitted remedy")
    return found
