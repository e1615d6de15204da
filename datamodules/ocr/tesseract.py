"""Reads by Tesseract, a program of the system's packages."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
from functools import cache
from typing import Any

import cv2

from datamodules.decode import Picture
from datamodules.errors import DataError
from datamodules.ocr.engine import ReaderOptions, fitted, has_likely_size, is_legible, span_of
from datamodules.text_spans import Span

_PROGRAM = "tesseract"
_WORD = "5"  # Tesseract's level of a word, below page, block, paragraph and line
_SPARSE = "11"  # page segmentation for text that stands somewhere, in no order
_LONGEST = 120  # seconds that one picture may take


class TesseractReader:
    """Finds words as upright boxes. Made for printed pages: weak on handwriting and on slanted text.

    Args:
        options: how it reads.
        language: of its data, several joined by "+".

    Raises:
        DataError: if the program, or its data of the language, is not installed.
    """

    def __init__(
        self,
        options: ReaderOptions = ReaderOptions(),  # noqa: B008 - immutable
        language: str = "eng",
    ) -> None:
        self.options, self.language = options, language
        known = _languages(_program())
        for one in language.split("+"):
            if one not in known:
                raise DataError(
                    f"tesseract: has no data for language {one!r} (apt-get install tesseract-ocr-{one}); "
                    f"it has {', '.join(sorted(known)) or 'none'}"
                )

    @property
    def name(self) -> str:
        """Tesseract's version and the language of its data."""
        return f"tesseract {_version(_program())} {self.language}"

    def describe(self) -> dict[str, Any]:
        """Name, which has the language, and options."""
        return {"name": self.name, "segmentation": int(_SPARSE), **self.options.to_json()}

    def read(self, image: Picture) -> tuple[Span, ...]:
        """Read a picture, see :class:`datamodules.ocr.engine.TextReader`; gives words.

        Raises:
            DataError: if the program fails.
        """
        picture, scale = fitted(image, self.options)
        if not is_legible(picture):
            return ()
        _, png = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        output = _run(
            [_program(), "stdin", "stdout", "-l", self.language, "--psm", _SPARSE, "tsv"],
            png.tobytes(),
            self.options.threads,
        )
        found = []
        for row in csv.DictReader(io.StringIO(output), delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["level"] != _WORD or float(row["conf"]) < 100 * self.options.min_confidence:
                continue
            left, top, width, height = (int(row[column]) for column in ("left", "top", "width", "height"))
            quad = ((left, top), (left + width, top), (left + width, top + height), (left, top + height))
            found.append(span_of(row["text"] or "", quad, float(row["conf"]) / 100, scale))
        return tuple(span for span in found if span is not None and has_likely_size(span, image, self.options))


def _program() -> str:
    found = shutil.which(_PROGRAM)
    if found is None:
        raise DataError(
            "tesseract is not installed, which reads pictures: apt-get install tesseract-ocr (or the like; "
            "https://tesseract-ocr.github.io), or read by rapidocr"
        )
    return found


@cache
def _version(program: str) -> str:
    # "tesseract 5.3.0" stands in the first line.
    first = _run([program, "--version"], b"", 1).splitlines()[0]
    return first.split()[-1].removeprefix("v")


@cache
def _languages(program: str) -> frozenset[str]:
    return frozenset(_run([program, "--list-langs"], b"", 1).split("\n")[1:]) - {""}


def _run(command: list[str], data: bytes, threads: int) -> str:
    environment = os.environ | {"OMP_THREAD_LIMIT": str(threads)}
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_LONGEST, env=environment)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"tesseract: took more than {_LONGEST} s for one picture") from error
    except OSError as error:
        raise DataError(f"{command[0]}: cannot be started ({error.strerror})") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:200]
        raise DataError(f"tesseract: failed with exit code {done.returncode} ({said})")
    return done.stdout.decode("utf-8", errors="replace")
