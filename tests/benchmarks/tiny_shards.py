"""Shards of a great many tiny samples, written at the speed of the disk."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from datamodules.sample import Sample

_MARK = b"@@@@@@@"  # stands where a sample's number goes
_BLOCK = 512
_CHECKSUM = slice(148, 156)
PIXELS = 16


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data.ljust(-(-len(data) // _BLOCK) * _BLOCK, b"\0")


def _jpeg() -> bytes:
    """A picture of a few hundred bytes that holds the mark in a comment."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((PIXELS, PIXELS)).save(file, "JPEG", optimize=True)
    data = file.getvalue()
    return data[:2] + b"\xff\xfe" + (2 + len(_MARK)).to_bytes(2, "big") + _MARK + data[2:]


def _template(source: str) -> npt.NDArray[np.uint8]:
    caption = f"picture number {_MARK.decode()} of a great many, each with a caption of its own"
    text = json.dumps(Sample(_MARK.decode(), (caption,), source).to_json())
    # As ShardWriter's: the description first, then the picture.
    sample = _member(f"{_MARK.decode()}.json", text.encode()) + _member(f"{_MARK.decode()}.jpg", _jpeg())
    return np.frombuffer(sample, dtype=np.uint8)


def _fill(template: npt.NDArray[np.uint8], numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Put numbers in the place of the mark and mend the headers' checksums: [n, bytes of a sample]."""
    digits = (numbers[:, None] // 10 ** np.arange(len(_MARK) - 1, -1, -1) % 10 + ord("0")).astype(np.uint8)
    samples = np.repeat(template[None], len(numbers), axis=0)
    data = template.tobytes()
    at = data.find(_MARK)
    while at >= 0:
        samples[:, at : at + len(_MARK)] = digits
        if at % _BLOCK == 0:  # a name, at the beginning of a header
            header = samples[:, at : at + _BLOCK]
            header[:, _CHECKSUM] = ord(" ")
            octal = header.sum(axis=1, dtype=np.int64)[:, None] // 8 ** np.arange(5, -1, -1) % 8 + ord("0")
            header[:, _CHECKSUM] = np.concatenate([octal, np.tile([0, ord(" ")], (len(numbers), 1))], axis=1)
        at = data.find(_MARK, at + 1)
    return samples


def write_tiny_shards(folder: Path, shards: int, per_shard: int) -> int:
    """Write ``shards`` tars of ``per_shard`` samples, every fifth tar of generated pictures.

    Args:
        folder: is made.
        shards: number of tars.
        per_shard: samples in each.

    Returns:
        Bytes written.
    """
    folder.mkdir(parents=True)
    templates = {source: _template(source) for source in ("real", "generated")}
    total = 0
    for shard in range(shards):
        numbers = np.arange(shard * per_shard, (shard + 1) * per_shard, dtype=np.int64)
        data = _fill(templates["generated" if shard % 5 == 4 else "real"], numbers).tobytes() + bytes(2 * _BLOCK)
        (folder / f"shard-{shard:06d}.tar").write_bytes(data)
        total += len(data)
    return total
