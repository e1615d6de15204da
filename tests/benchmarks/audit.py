"""What an audit of source bias costs: 25,000 captions by 10,000 pictures of 512 dimensions, on two cores.

    python tests/benchmarks/audit.py [--json FILE] [--check]

Runs ``bias-train audit source`` in fresh processes on made-up vectors, whose values cost nothing: every figure, 2,000
resamples, 9,999 label swaps, quantile cells, and all outputs. Time is that of the whole process, its start and the
reading of the file included; memory is the most that was resident, as the system has counted it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from fresh_process import measure_process, row, run

WIDTH = 512
SIZE = "25,000 captions, 10,000 pictures, 512 dimensions"


def write_vectors(path: Path, photos: int, captions: int, twins: int, generators: int) -> None:
    """Write unit vectors: photos, twins that lie a little nearer to the captions, captions of 4 to 19 words.

    Args:
        path: the .npz file.
        photos: P.
        captions: of each photo.
        twins: of each photo.
        generators: take turns over the twins.
    """
    rng = np.random.default_rng(0)
    scene = rng.standard_normal((photos, WIDTH), dtype=np.float32)

    def view(noise: float, times: int = 1) -> np.ndarray:
        rows = np.repeat(scene, times, axis=0)
        rows = rows + noise * rng.standard_normal(rows.shape, dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    target = np.arange(photos)
    turn = np.arange(photos * twins)
    words = rng.integers(4, 20, photos * captions)
    np.savez(
        path,
        image=np.concatenate([view(3.0), view(2.9, twins)]),
        image_key=np.array([f"photo {i}" for i in target] + [f"twin {i}" for i in turn]),
        image_target=np.concatenate([target, np.repeat(target, twins)]),
        image_source=np.concatenate([target * 0, 1 + turn % generators]),
        text=view(3.0, captions),
        query=np.array([" ".join(["word"] * int(n)) for n in words]),
        query_target=np.repeat(target, captions),
        query_slot=np.tile(np.arange(captions), photos),
    )


def measure_once(vectors: Path, folder: Path, cores: int, extra: list[str]) -> dict[str, float]:
    """Audit in a fresh process; return seconds, seconds of processor time, and the most bytes that were resident."""
    command = [str(Path(sys.executable).with_name("bias-train")), "audit", "source", "--embeddings", str(vectors)]
    return measure_process([*command, "--output", str(folder), *extra], cores)


def measure(folder: Path, cores: int, rounds: int) -> list[dict[str, Any]]:
    """Measure everything; one line of the table each."""
    table = []
    sets = {
        "5,000 photos, 5 captions, a twin by one of two generators": (5000, 5, 1, 2),
        "2,500 photos, 10 captions, twins by three generators": (2500, 10, 3, 3),
    }
    for what, shape in sets.items():
        vectors = folder / "vectors.npz"
        write_vectors(vectors, *shape)
        for name, extra in (("", []), (", BCa", ["--interval", "bca"]), (", against itself", ["--against", vectors])):
            found = [measure_once(vectors, folder / "out", cores, [str(part) for part in extra]) for _ in range(rounds)]
            # Two audits at once have no target.
            table.append(row(what + name, found, targeted=not extra or extra[0] != "--against"))
    return table


if __name__ == "__main__":
    sys.exit(run(__doc__, SIZE, measure))
