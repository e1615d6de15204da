"""What an audit of source bias costs: 25,000 captions by 10,000 pictures of 512 dimensions, on two cores.

    python tests/benchmarks/audit.py [--json FILE] [--check]

Runs ``bias-train audit source`` in fresh processes on made-up vectors, whose values cost nothing: every figure, 2,000
resamples, 9,999 label swaps, quantile cells, and all outputs. Time is that of the whole process, its start and the
reading of the file included; memory is the most that was resident, as the system has counted it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
import numpy as np
from fresh_process import measure_process
from tables import add_output, markdown, put_out

SECONDS, BYTES = 60.0, 2e9
WIDTH = 512


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


def measure(folder: Path, cores: int, rounds: int) -> dict[str, Any]:
    """Measure everything; the result is what --json writes."""
    result: dict[str, Any] = {"machine": machine.describe(), "cores": cores, "rounds": rounds, "table": []}
    machine.warn_if_busy(result["machine"])
    sets = {
        "5,000 photos, 5 captions, a twin by one of two generators": (5000, 5, 1, 2),
        "2,500 photos, 10 captions, twins by three generators": (2500, 10, 3, 3),
    }
    for what, shape in sets.items():
        vectors = folder / "vectors.npz"
        write_vectors(vectors, *shape)
        for name, extra in (("", []), (", BCa", ["--interval", "bca"]), (", against itself", ["--against", vectors])):
            found = [measure_once(vectors, folder / "out", cores, [str(part) for part in extra]) for _ in range(rounds)]
            result["table"].append(row(what + name, found, targeted=not extra or extra[0] != "--against"))
    return result


def row(what: str, found: list[dict[str, float]], *, targeted: bool) -> dict[str, Any]:
    """One line of the table: the slowest and the largest of the rounds; two audits at once have no target."""
    most = {name: max(one[name] for one in found) for name in found[0]}
    met = not targeted or (most["seconds"] <= SECONDS and most["bytes"] <= BYTES)
    return {"what": what, **most, "rounds": found, "targeted": targeted, "met": met}


def report(result: dict[str, Any]) -> str:
    """Lay out the result for people, as Markdown."""
    size = "25,000 captions, 10,000 pictures, 512 dimensions"
    head = [size, "s", "s of processor", "GB", f"at most {SECONDS:g} s, {BYTES / 1e9:g} GB"]
    rows = [
        [
            line["what"],
            f"{line['seconds']:.1f}",
            f"{line['cpu_seconds']:.1f}",
            f"{line['bytes'] / 1e9:.2f}",
            ("met" if line["met"] else "MISSED") if line["targeted"] else "",
        ]
        for line in result["table"]
    ]
    return f"{markdown(head, rows)}\n\n{result['cores']} cores used; {machine.line(result['machine'])}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2, help="that the audit may use (default: 2)")
    parser.add_argument("--rounds", type=int, default=1, help="audits of each kind; the slowest counts (default: 1)")
    add_output(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.cores, options.rounds)
    return put_out(options, result, report(result), result["table"])


if __name__ == "__main__":
    sys.exit(main())
