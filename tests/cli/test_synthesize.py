"""``bias-train synthesize twins`` as its user calls it: errors, dry runs, kills, and two processes at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_pipeline import save_tiny_pipeline

from bias_train.cli.synthesize import main
from datamodules.index import ShardIndex
from datamodules.sample import Sample
from datamodules.synthesis.work import ShardWork
from datamodules.world import World, write_world
from datamodules.writer import ShardWriter

GATED = Path(__file__).resolve().parents[1] / "gated_synthesis.py"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes of the embedded world in three shards."""
    rendered, folder = tmp_path_factory.mktemp("world"), tmp_path_factory.mktemp("photos")
    world = ShardIndex.load(write_world(rendered, samples=12, world=World(size=32)).folder)
    with ShardWriter(folder, samples_per_shard=4) as writer:
        for row in range(12):
            sample = world.sample(row)
            at = int(world.view_start[row])
            data = world.read_bytes(int(world.shard[row]), int(world.offset[at]), int(world.size[at]))
            writer.write(Sample(sample.key, sample.captions), data)
    return folder


@pytest.fixture(scope="module")
def whole(photos: Path, pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a set that was made without a break."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(arguments(photos, out, pipeline)) == 0
    return files(out)


def arguments(photos: Path, out: Path, pipeline: Path, *more: str) -> list[str]:
    common = ["--device", "cpu", "--steps", "2", "--candidates", "2", "--select", "random"]
    return ["twins", str(photos), str(out), "--generator", f"tiny={pipeline}", *common, *more]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def start(folder: Path, count: str, argv: list[str]) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.Popen([sys.executable, str(GATED), str(folder), count, *argv], env=env)


def killed_midway(folder: Path, count: int, argv: list[str]) -> None:
    """Run the command in a process of its own until it has kept so many samples' pictures; then kill -9."""
    process = start(folder, str(count), argv)
    try:
        while not (folder / "waits").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    (folder / "waits").unlink()


def test_killed_and_resumed_it_is_the_same_byte_for_byte(
    photos: Path, pipeline: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    argv = arguments(photos, out, pipeline)
    killed_midway(tmp_path, 6, argv)
    assert len(list(out.glob(".synthesis/*/tiny/*.zip"))) == 6
    assert not (out / "index.arrow").exists()
    saved: list[str] = []
    save = ShardWork.save

    def noted(self: ShardWork, key: str, *rest: Any) -> None:
        saved.append(key)
        save(self, key, *rest)

    monkeypatch.setattr(ShardWork, "save", noted)
    assert main(argv) == 0
    assert len(saved) == len(set(saved)) == 6  # of twelve: none twice
    assert files(out) == whole


def test_two_processes_of_one_part_do_no_harm(
    photos: Path, pipeline: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    both = [start(tmp_path, "-", arguments(photos, out, pipeline)) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert files(out) == whole


def test_an_array_makes_the_same_set(
    photos: Path, pipeline: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for name, value in {"COUNT": "2", "MIN": "0", "MAX": "1", "STEP": "1"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for task in ("1", "0"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert main(arguments(photos, out, pipeline)) == 0
    assert files(out) == whole


def test_the_index_can_be_made_at_the_end(
    photos: Path, pipeline: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(photos, out, pipeline, "--part", "1/2")) == 0
    assert "1 shards of other parts are to come" in capsys.readouterr().out
    assert main(arguments(photos, out, pipeline, "--finish")) == 2
    assert "1 of 3 shards are not done yet (shard-000001.tar for one)" in capsys.readouterr().err
    assert main(arguments(photos, out, pipeline, "--part", "2/2")) == 0
    (out / "index.arrow").unlink()
    assert main(arguments(photos, out, pipeline, "--finish")) == 0
    assert "12 samples, 24 pictures in 3 shards (real, tiny)" in capsys.readouterr().out
    assert files(out) == whole


def test_a_dry_run_writes_nothing(
    photos: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ["--generator", f"other={pipeline}", "--prompts", "each", "--limit", "3", "--dry-run"]
    assert main(arguments(photos, out, pipeline, *more)) == 0
    lines = capsys.readouterr().out.splitlines()
    index = ShardIndex.load(photos)
    captions = [(key, caption) for row, key in enumerate(index.keys[:3]) for caption in index.captions(row)]
    assert lines[:-1] == [f"{key}\t{caption}" for key, caption in captions]
    pictures = len(captions) * 2 * 2
    assert lines[-1] == (
        f"3 photos, {len(captions)} prompts, 2 generators, 2 candidates: {pictures} pictures"
    )  # fmt: skip
    assert not out.exists()


def test_selection_by_a_retriever(photos: Path, pipeline: Path, tmp_path: Path) -> None:
    from models import OpenClipRetriever

    model = tmp_path / "model.json"
    model.write_text(
        json.dumps(
            {
                "embed_dim": 16,
                "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
                "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
            }
        )
    )
    weights = tmp_path / "weights.safetensors"
    OpenClipRetriever(config=str(model)).save_weights(str(weights))
    argv = arguments(photos, tmp_path / "out", pipeline, "--limit", "2", "--select", "best")
    assert main([*argv, "--select-model-config", str(model), "--select-pretrained", str(weights)]) == 0
    index = ShardIndex.load(tmp_path / "out")
    for row in range(2):
        made = index.sample(row).views["tiny"].meta["synthesis"]
        assert made["similarity"] == max(made["candidate_similarities"])
        assert made["encoder"] == f"model-config {model} {weights}"


def test_options_of_one_generator(photos: Path, pipeline: Path, tmp_path: Path) -> None:
    more = ["--generator", f"other={pipeline}", "--steps", "other=3", "--negative-prompt", "blue=green", "--limit", "1"]
    assert main(arguments(photos, tmp_path, pipeline, *more)) == 0
    views = {name: view.meta["synthesis"] for name, view in ShardIndex.load(tmp_path).sample(0).views.items()}
    assert {name: made["steps"] for name, made in views.items()} == {"tiny": 2, "other": 3}
    assert {made["negative_prompt"] for made in views.values()} == {"blue=green"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--generator", "gone=folders/that/are/gone"], "there is no such folder, and no such name on the hub"),
        (["--generator", "nameless"], "write NAME=PIPELINE"),
        (["--generator", "Capital=x/y"], "'capital'"),
        (["--steps", "few"], "--steps few: cannot be read"),
        (["--select", "best"], "choosing the best needs an encoder"),
        (["--hold-out", "any"], "--hold-out any: give a caption's number, from 0, or random"),
        (["--queries", "held-out"], "there is none without --hold-out"),
        (["--prompts", "openai"], "--prompt-model goes with"),
        (["--part", "3/2"], "write NUMBER/COUNT"),
        (["--select-model", "ViT-B-32", "--select-vision", "x"], "one encoder is enough"),
        (["--codec", "original", "--size", "32"], "leave out one"),
    ],
)
def test_mistakes_end_in_one_line(
    more: list[str], said: str, photos: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(photos, tmp_path / "out", pipeline, *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("bias-train synthesize twins: ")
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_missing_extra_is_named(
    photos: Path, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from datamodules.synthesis import extra

    def find(name: str) -> Any:
        return None if name == "diffusers" else object()

    monkeypatch.setattr(extra, "find_spec", find)
    assert main(arguments(photos, tmp_path / "out", pipeline)) == 2
    assert "pip install 'bias-train[synthesis]'" in capsys.readouterr().err
    assert main(arguments(photos, tmp_path / "out", pipeline, "--dry-run")) == 0


def test_no_key_ends_in_a_file(
    photos: Path, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Authorization"] == "Bearer a-secret-key-of-mine"
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [{"message": {"content": "a red dog"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MY_KEY", "a-secret-key-of-mine")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    ask = ["--prompts", "openai", "--prompt-model", "m", "--prompt-url", url, "--prompt-key-env", "MY_KEY"]
    try:
        assert main(arguments(photos, tmp_path / "out", pipeline, *ask, "--limit", "2")) == 0
    finally:
        server.shutdown()
        server.server_close()
    made = ShardIndex.load(tmp_path / "out").sample(0).views["tiny"].meta["synthesis"]
    assert (made["prompt"], made["prompt_writer"], made["prompt_model"]) == ("a red dog", "openai", "m")
    told = capsys.readouterr()
    assert "a-secret-key" not in told.out + told.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    assert not any(b"a-secret-key" in path.read_bytes() for path in written)
