"""What the extra ``synthesis`` brings, asked for where it is first needed."""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from datamodules.errors import DataError

_PACKAGES = ("diffusers", "transformers", "accelerate")
_RECORDED = ("torch", *_PACKAGES)


def require_synthesis() -> None:
    """Check that the extra is installed.

    Raises:
        DataError: naming what is missing and how to install it.
    """
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise DataError(f"{package} is not installed, which makes pictures: pip install 'bias-train[synthesis]'")


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that pictures depend on."""
    found = {}
    for package in _RECORDED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def quiet_libraries() -> None:
    """Keep progress bars and hints of the libraries out of logs that are read after thousands of pictures."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def one_line(error: BaseException, limit: int = 240) -> str:
    """What an error says, in one line.

    >>> one_line(ValueError("no   such thing"))
    'no such thing'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
