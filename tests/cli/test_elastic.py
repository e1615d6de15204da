"""A training whose processes are killed, and which goes on at other world sizes, sees what an unbroken one sees.

``ELASTIC_SEED`` repeats a schedule of deaths; a failure prints the one that it met.
"""

from __future__ import annotations

import csv
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
import yaml
from elastic_rank import PLACES, Start
from safetensors.torch import load_file

from datamodules.catalogue import Catalogue
from datamodules.index import ShardIndex
from datamodules.plan import MixingPlan, MixSpec
from datamodules.world import World, write_world

pytestmark = pytest.mark.slow

STEPS, CHECKPOINT_EVERY, EVALUATE_EVERY, BATCH, SEED = 60, 3, 12, 16, 3
KILLS = 11  # in each of the two ways of writing checkpoints
SPEC = MixSpec(share=0.3, twin_share=0.5, batch_size=BATCH, shuffle_shards=2, seed=SEED)


class Node:
    """The program that starts ranks, see ``elastic_rank``."""

    def __init__(self, folder: Path) -> None:
        self._errors = (folder / "node.txt").open("w")
        self._process = subprocess.Popen(
            # Not as a script: each loader worker would import that again.
            [sys.executable, "-c", "import elastic_rank; elastic_rank.serve()"],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, Path(self._errors.name).read_text()
        return line.strip()

    def begin(self, start: Start) -> list[int]:
        """Start ranks; returns their process ids."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(start)) + "\n")
        self._process.stdin.flush()
        pids: list[int] = json.loads(self._answer())
        return pids

    def end(self) -> list[int]:
        """Wait for the ranks; returns their exit codes."""
        codes: list[int] = json.loads(self._answer())
        return codes

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._errors.close()


class Begun(NamedTuple):
    """Where a start goes on from."""

    checkpoint: str | None
    step: int


@dataclass
class Run:
    """A run folder, and all that its ranks have logged."""

    folder: Path
    log: Path
    config: Path
    attempt: int = 0

    def argv(self, *options: str) -> list[str]:
        return ["--config", str(self.config), "--run_dir", str(self.folder), "--resume=auto", *options]

    def entries(self) -> list[dict[str, Any]]:
        """Whole lines of all ranks."""
        return [
            json.loads(line) for path in sorted(self.log.glob("rank-*.jsonl")) for line in path.read_text().splitlines()
        ]

    def checkpoints(self, spoilt: dict[str, int]) -> dict[str, int]:
        """Steps of the checkpoints by name, each of which must load, but for those that the test has spoilt."""
        return {
            path.name: int(torch.load(path, weights_only=False)["global_step"])
            for path in self.folder.glob("checkpoints/*.ckpt")
            if spoilt.get(path.name) != path.stat().st_mtime_ns
        }

    def newest(self, spoilt: dict[str, int]) -> Begun:
        """Where the next start has to go on from."""
        return max(
            (Begun(*item) for item in self.checkpoints(spoilt).items()), key=lambda b: b.step, default=Begun(None, 0)
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    made = Node(tmp_path_factory.mktemp("node"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic-shards")
    write_world(folder / "train", samples=80, world=World(size=16), samples_per_shard=20)
    write_world(folder / "val", samples=12, world=World(size=16), split_offset=80)
    return folder


@pytest.fixture(scope="module")
def config(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic-config")
    model = {
        "embed_dim": 8,
        "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    }
    (folder / "model.json").write_text(json.dumps(model))
    callbacks = [
        {"class_path": "elastic_rank.Consumed"},
        {
            "class_path": "bias_train.callbacks.source_bias.SourceBias",
            "init_args": {"ratios": [0.5], "ks": [1], "resamples": 20, "examples": 0},
        },
    ]
    document = {
        "include": ["configs/loss/rank_hinge.yaml", "configs/trainer/cpu.yaml"],
        "seed_everything": SEED,
        "checkpoint_every": CHECKPOINT_EVERY,
        "model": {
            "retriever": {
                "class_path": "models.open_clip_retriever.OpenClipRetriever",
                "init_args": {"config": str(folder / "model.json")},
            },
            "optimizer": {"lr": 1e-3},
            "schedule": {"warmup_steps": 8},
        },
        "data": {
            "class_path": "datamodules.mixed_source.MixedSourceDataModule",
            "init_args": {
                "train": [str(shards / "train")],
                "val": [str(shards / "val")],
                "share": SPEC.share,
                "twin_share": SPEC.twin_share,
                "shuffle_shards": SPEC.shuffle_shards,
                "batch_size": BATCH,
            },
        },
        "trainer": {
            "max_steps": STEPS,
            "val_check_interval": EVALUATE_EVERY,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            # Ranks' sums are added in another order. In double precision (but for the embeddings) that leaves weights
            # equal to about 1e-8, where one step on another sample changes them by the learning rate, 1e-3.
            "precision": "64-true",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
        },
        "logging": {"wandb": False, "tensorboard": False},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def new_run(config: Path, folder: Path) -> Run:
    (folder / "log").mkdir()
    return Run(folder / "run", folder / "log", config)


def start(
    run: Run, world_size: int, *options: str, place: str = "none", victims: tuple[int, ...] = (), count: int = 1
) -> Start:
    run.attempt += 1
    scale = [f"--trainer.devices={world_size}", f"--trainer.strategy={'ddp' if world_size > 1 else 'auto'}"]
    return Start(
        run.attempt, world_size, free_port(), str(run.log), run.argv(*scale, *options), place, list(victims), count
    )


def output(run: Run) -> str:
    return "\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in sorted(run.log.glob(f"output-{run.attempt}-*.txt")))


@pytest.fixture(scope="module")
def unbroken(config: Path, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One process, never killed."""
    run = new_run(config, tmp_path_factory.mktemp("unbroken"))
    node.begin(start(run, 1))
    assert node.end() == [0], output(run)
    return run


@dataclass(frozen=True)
class Death:
    """One kill of a schedule; see :class:`elastic_rank.Start`."""

    place: str
    world_size: int
    victims: tuple[int, ...]
    count: int
    workers: int
    seconds: float
    damage: str


def schedule(rng: random.Random) -> list[Death]:
    """Every place at which ranks may die, twice the kill from outside, and more of any, at changing world sizes."""
    places = [*PLACES, "outside", "outside"]
    places += rng.choices([*PLACES, "outside"], k=KILLS - len(places))
    rng.shuffle(places)
    sizes: list[int] = []
    for _ in places:
        sizes.append(rng.choice([size for size in (1, 2, 4) if [size] != sizes[-1:]]))
    sizes[rng.randrange(KILLS)] = 8
    damaged = dict(zip(rng.sample(range(4, KILLS), 2), ("cut short", "a flipped byte"), strict=True))
    deaths = []
    for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
        in_writing = place in ("half a checkpoint", "before the rename", "before the removal")
        one, everyone = (0 if in_writing else rng.randrange(size),), tuple(range(size))
        deaths.append(
            Death(
                place,
                size,
                one if in_writing or rng.random() < 0.7 else everyone,
                rng.randint(1, 2 if in_writing else 5),
                rng.randint(1 if place == "a loader worker" else 0, 1 if size == 8 else 2),
                rng.uniform(0, 0.3),
                damaged.get(number, ""),
            )
        )
    return deaths


def damage(checkpoint: Path, how: str) -> None:
    """Spoil a checkpoint as a disk may, without a trace in its name, and with its time kept."""
    times = checkpoint.stat().st_atime_ns, checkpoint.stat().st_mtime_ns
    if how == "cut short":
        os.truncate(checkpoint, checkpoint.stat().st_size * 2 // 3)
    else:
        data = bytearray(checkpoint.read_bytes())
        data[len(data) // 2] ^= 255
        checkpoint.write_bytes(data)
    os.utime(checkpoint, ns=times)


def die(node: Node, run: Run, death: Death, asynchronous: bool) -> None:
    """Start, and see that ranks die where they should."""
    options = [f"--data.num_workers={death.workers}", f"--checkpoint_async={asynchronous}"]
    begun = start(run, death.world_size, *options, place=death.place, victims=death.victims, count=death.count)
    pids = node.begin(begun)
    if death.place == "outside":
        while not any(e["attempt"] == run.attempt and e["event"] == "batch" for e in run.entries()):
            assert psutil.pid_exists(pids[0]), output(run)
            time.sleep(0.01)
        time.sleep(death.seconds)
        for victim in death.victims:
            os.kill(pids[victim], signal.SIGKILL)
    codes = node.end()
    # A rank whose loader's worker was killed fails; all others are killed, or fail when a peer has gone.
    assert 0 not in codes, f"some rank ended by itself\n{output(run)}"
    assert death.place == "a loader worker" or all(codes[rank] == -signal.SIGKILL for rank in death.victims), output(
        run
    )
    left = {path.name for path in run.folder.glob("checkpoints/*")}
    partial = [name for name in left if name.endswith(".partial")]
    if death.place in ("half a checkpoint", "before the rename"):
        assert partial, left
    if death.place == "before the removal":
        assert len(left) > 2, left


@pytest.mark.timeout(900)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
def test_a_run_that_is_killed_again_and_again_is_the_unbroken_run(
    asynchronous: bool, unbroken: Run, node: Node, config: Path, shards: Path, tmp_path: Path
) -> None:
    seed = os.environ.get("ELASTIC_SEED", str(secrets.randbits(32)))
    print(f"ELASTIC_SEED={seed}")
    rng = random.Random(f"{seed} {asynchronous}")
    run = new_run(config, tmp_path)
    expected: dict[int, Begun] = {}
    spoilt: dict[str, int] = {}
    for death in schedule(rng):
        print(run.attempt + 1, death, flush=True)
        if death.damage and len(run.checkpoints(spoilt)) > 1:
            newest = run.folder / "checkpoints" / str(run.newest(spoilt).checkpoint)
            damage(newest, death.damage)
            spoilt[newest.name] = newest.stat().st_mtime_ns
        expected[run.attempt + 1] = run.newest(spoilt)
        die(node, run, death, asynchronous)
    expected[run.attempt + 1] = run.newest(spoilt)
    last = rng.choice([1, 2, 4])
    node.begin(start(run, last, "--data.num_workers=1", f"--checkpoint_async={asynchronous}"))
    assert node.end() == [0] * last, output(run)
    assert_starts_are_whole_checkpoints(run, expected)
    assert_same_history(run, unbroken, shards)
    assert_same_outcome(run, unbroken)


def assert_starts_are_whole_checkpoints(run: Run, expected: dict[int, Begun]) -> None:
    """Every rank of every start begins at the step of the newest whole checkpoint, and goes on step by step."""
    steps: dict[tuple[int, int], list[int]] = defaultdict(list)
    begun = set()
    for entry in run.entries():
        if entry["event"] == "start":
            assert (entry["checkpoint"], entry["step"]) == expected[entry["attempt"]], entry
            begun.add(entry["attempt"])
        else:
            steps[entry["attempt"], entry["rank"]].append(entry["step"])
    assert begun == set(expected)
    for (attempt, rank), taken in steps.items():
        assert taken == list(range(expected[attempt].step, expected[attempt].step + len(taken))), (attempt, rank)


def history(run: Run) -> dict[int, dict[str, list[Any]]]:
    """The global batch of every step as the last start that made it saw it, ranks in order."""
    parts: dict[int, dict[int, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for entry in run.entries():
        if entry["event"] == "batch":
            of_ranks = parts[entry["step"]][entry["attempt"]]
            assert entry["rank"] not in of_ranks
            of_ranks[entry["rank"]] = entry
    batches = {}
    for step, attempts in parts.items():
        ranks = attempts[max(attempts)]
        world_size = next(iter(ranks.values()))["world_size"]
        assert sorted(ranks) == list(range(world_size)), f"step {step} was not made by all ranks"
        batches[step] = {
            name: [value for rank in range(world_size) for value in ranks[rank][name]]
            for name in ("keys", "captions", "sources", "twin_sources")
        }
        size = BATCH // world_size
        batches[step]["twins"] = [rank * size + row for rank in range(world_size) for row in ranks[rank]["twins"]]
    return batches


def assert_same_history(run: Run, unbroken: Run, shards: Path) -> None:
    """Every step once, with the batch that the plan says and the unbroken run saw."""
    seen = history(run)
    assert sorted(seen) == list(range(STEPS))
    assert seen == history(unbroken)
    plan = MixingPlan(Catalogue.of([ShardIndex.load(shards / "train")]), SPEC)
    for step, batch in seen.items():
        slots = plan.slots(step)
        assert batch["keys"] == [plan.catalogue.name(int(picture)) for picture in slots.picture]
        assert batch["sources"] == [int(plan.catalogue.picture_source[picture]) for picture in slots.picture]
        assert batch["twins"] == [row for row, twin in enumerate(slots.twin) if twin >= 0]


def close(value: str, other: str) -> bool:
    """Whether two figures of a table are equal but for rounding in single precision."""
    return bool(value and other) and float(value) == pytest.approx(float(other), rel=1e-5, abs=1e-6)


def assert_same_outcome(run: Run, unbroken: Run) -> None:
    """The same curves, figures and weights, but for the order in which ranks' sums are added."""
    for table in ("metrics.csv", "records.csv"):
        killed, whole = ([*csv.DictReader((r.folder / table).open(newline=""))] for r in (run, unbroken))
        assert [row["step"] for row in killed] == [row["step"] for row in whole]
        for row, other in zip(killed, whole, strict=True):
            assert row.keys() == other.keys()
            for name in row:
                assert row[name] == other[name] or close(row[name], other[name]), (table, row["step"], name)
    checkpoints = [r.folder / "checkpoints" / f"step={STEPS}.ckpt" for r in (run, unbroken)]
    assert list(run.folder.glob("checkpoints/*")) == checkpoints[:1]
    states = [torch.load(path, weights_only=False)["state_dict"] for path in checkpoints]
    torch.testing.assert_close(*states, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        *[load_file(r.folder / "retriever.safetensors") for r in (run, unbroken)], rtol=0, atol=1e-6
    )
    status = json.loads((run.folder / "status.json").read_text())
    assert (status["state"], status["step"]) == ("done", STEPS)
