"""Fitted remedies as files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from models.errors import ModelError
from models.remedies.base import Fitted
from models.tensor_file import read_tensors, write_tensors

_KIND = "remedy"
_HOME = ("models.remedies.", "models.text_remedies.")


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
    document = {"class": _name(type(fitted)), "metadata": fitted.metadata}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in fitted.state().items()}
    write_tensors(path, tensors, _KIND, document)


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
    tensors, document = read_tensors(path, _KIND, "bias-train remedy fit")
    if kind is not None and document["class"] != _name(kind):
        raise ModelError(f"{path}: is of class {document['class']}, not {_name(kind)}")
    return (kind or _class(path, document["class"])).of(tensors, document["metadata"])


def _name(kind: type[Fitted]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _class(path: Path, name: str) -> type[Fitted]:
    module, _, kind = name.rpartition(".")
    if not name.startswith(_HOME):
        homes = " or ".join(f"{home}*" for home in _HOME)
        raise ModelError(f"{path}: is of class {name}, which is none of {homes}; load it in Python, naming the class")
    try:
        found = getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{path}: is of class {name}, which this version does not have ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Fitted)):
        raise ModelError(f"{path}: is of class {name}, which is no fitted remedy")
    return found
