"""However damaged an index is, it is refused or read soundly: no crash, no hang, little memory."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from pictures import pixels

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.index_file import INDEX_NAME
from datamodules.sample import Sample, View
from datamodules.store import FolderStore
from datamodules.writer import ShardWriter

# Runs in a process of its own, where a segmentation fault is a result and memory has a limit. Reads the numbers of the
# damaged files to try, and says of each which error it ended in, "" for none.
READER = """
import faulthandler, json, resource, sys, traceback, warnings
from pathlib import Path
import numpy as np
import datamodules.index
from datamodules.catalogue import Catalogue
from datamodules.errors import DataError
from datamodules.evaluation import evaluation_set
from datamodules.index import ShardIndex
from datamodules.plan import MixingPlan, MixSpec
from datamodules.stream import MixedStream

def use(folder, other):
    index = ShardIndex.load(folder)
    for row in range(len(index)):
        index.keys[row].encode(), [caption.encode() for caption in index.captions(row)]
    part = index.select(np.arange(len(index))[::-1])
    list(part.keys), list(part.columns.captions)
    repr(index.problems.lines())
    catalogue = Catalogue.of([index])
    for composition in ("mixed", "per_batch_source"):
        plan = MixingPlan(catalogue, MixSpec(share=0.5, twin_share=0.5, batch_size=4, composition=composition))
        plan.slots(0), plan.slots(1000), plan.shards_ahead(0), plan.fingerprint
    MixedStream(plan, (8, 8)).batch(0)
    MixedStream(MixingPlan(catalogue, MixSpec(share=1.0, mode="unpaired", batch_size=4)), (8, 8)).batch(0)
    evaluation_set(catalogue)
    ShardIndex.load([folder, other])
    ShardIndex.load(folder / "shard-000000.tar")

datamodules.index._READ_WHOLE = 0
faulthandler.enable(open(sys.argv[3], "w"))
warnings.simplefilter("ignore")
folder, other = Path(sys.argv[1]), Path(sys.argv[2])
target, whole = folder / "index.arrow", (folder / "index.arrow").read_bytes()
use(folder, other)  # what is loaded late is loaded now
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
for line in sys.stdin:
    damaged = bytearray(whole)
    cut, edits = json.loads(line)
    for at, new in edits:
        damaged[at : at + len(new) // 2] = bytes.fromhex(new)
    target.unlink()  # a mapped file is not to change under its reader
    target.write_bytes(damaged[:cut])
    try:
        use(folder, other)
        said = ""
    except DataError as error:
        said = "DataError: " + str(error)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-4:]
        said = f"{error!r} at " + ", ".join(f"{Path(at.filename).name}:{at.lineno}" for at in last)
    print(json.dumps(said), flush=True)
"""


def write_set(folder: Path, samples: int, prefix: str) -> Path:
    with ShardWriter(folder, samples_per_shard=3) as writer:
        for i in range(samples):
            views = {"gen": View("gen", ("a view",) if i % 2 else None)}
            sample = Sample(f"{prefix}{i}", (f"caption {i}", "ünï")[: 1 + i % 2], label="ab"[i % 2], views=views)
            writer.write(sample, pixels(i), {"gen": pixels(100 + i)})
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return write_set(folder / "one", 8, "k"), write_set(folder / "other", 3, "o")


Edits = tuple[int, list[tuple[int, str]]]


def damages(data: bytes, count: int, seed: int) -> list[Edits]:
    """Cuts, flipped bits, and numbers overwritten by others, as (bytes to keep, [(place, new bytes)])."""
    rng = np.random.default_rng(seed)
    numbers = [0, 1, -1, 2, 7, 8, 9, 2**15, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), -8, 64]
    found: list[Edits] = []
    for n in range(count):
        keep, edits = len(data), []
        for _ in range(int(rng.integers(1, 4))):
            kind = rng.integers(0, 8)
            at = int(rng.integers(0, len(data)))
            if kind == 0 and n % 4 == 0:
                keep = at
            elif kind <= 2:
                edits.append((at, bytes([data[at] ^ (1 << int(rng.integers(0, 8)))]).hex()))
            elif kind <= 4:
                # Numbers of eight bytes lie at multiples of eight; so do most of an index's.
                number = numbers[int(rng.integers(0, len(numbers)))]
                edits.append((at // 8 * 8, struct.pack("<q", number).hex()))
            elif kind == 5:
                edits.append((at // 4 * 4, struct.pack("<i", int(rng.integers(-3, 70))).hex()))
            elif kind == 6:
                edits.append((at // 2 * 2, struct.pack("<h", int(rng.integers(-3, 70))).hex()))
            else:
                length = int(rng.integers(1, 65))
                source = int(rng.integers(0, len(data)))
                edits.append((at, data[source : source + min(length, len(data) - at)].hex()))
        found.append((keep, edits))
    return found


def outcomes(sets: tuple[Path, Path], tmp_path: Path, cases: list[Edits]) -> list[str]:
    """What reading each damaged index ended in, where its checksum is not compared."""
    folder = tmp_path / "set"
    shutil.copytree(sets[0], folder)
    trace = tmp_path / "trace"
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READER), str(folder), str(sets[1]), str(trace)],
        input="".join(json.dumps(case) + "\n" for case in cases),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    said: list[str] = [json.loads(line) for line in process.stdout.splitlines()]
    if process.returncode or len(said) < len(cases):
        pytest.fail(
            f"exit {process.returncode} at case {len(said)}: {cases[len(said)]}\n{process.stderr[-3000:]}\n"
            f"{trace.read_text()[:3000]}"
        )
    return said


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of a process's memory are Linux's")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_damaged_index_is_refused_or_read_soundly(sets: tuple[Path, Path], tmp_path: Path, seed: int) -> None:
    data = (sets[0] / INDEX_NAME).read_bytes()
    cases = damages(data, 300, seed)
    said = outcomes(sets, tmp_path, cases)
    bugs = {line: case for case, line in zip(cases, said, strict=True) if line and not line.startswith("DataError: ")}
    assert not bugs
    assert 0.1 < sum(line == "" for line in said) / len(said) < 0.9  # the damage is neither harmless nor plain to see


def test_the_checksum_sees_what_the_numbers_alone_do_not_show(sets: tuple[Path, Path]) -> None:
    """Any one bit of the table or of its names, such as the code of a picture's source."""
    file = sets[0] / INDEX_NAME
    whole = file.read_bytes()
    store = FolderStore(sets[0])
    truth = ShardIndex.open(file, store, whole=True)
    unseen = 0
    try:
        for at in range(0, len(whole), 7):
            file.unlink()
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            try:
                index = ShardIndex.open(file, store, whole=True)
            except DataError:
                continue
            unseen += 1
            assert index.columns.checksum() == truth.columns.checksum()
            assert (index.shards, index.sources, index.labels) == (truth.shards, truth.sources, truth.labels)
    finally:
        file.write_bytes(whole)
    assert unseen < len(whole) / 7 / 2  # padding, and what Arrow says twice


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of a process's memory are Linux's")
def test_a_truncated_index_is_refused_wherever_it_is_cut(sets: tuple[Path, Path], tmp_path: Path) -> None:
    length = len((sets[0] / INDEX_NAME).read_bytes())
    cuts = {0, 1, 5, 8, 11, *range(0, length, length // 60), length - 1}
    said = outcomes(sets, tmp_path, [(cut, []) for cut in sorted(cuts)])
    assert all(line.startswith("DataError:") and "bias-train shards index" in line for line in said)
