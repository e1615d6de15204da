from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bias_train.callbacks.run_folder import resume_point
from bias_train.checkpoints import AsyncCheckpointIO, AtomicCheckpointIO, damage_of, newest_checkpoint
from bias_train.errors import RunError
from bias_train.files import write_text_once

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
Writer = AtomicCheckpointIO | AsyncCheckpointIO


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture(params=[AtomicCheckpointIO, AsyncCheckpointIO])
def writer(request: pytest.FixtureRequest) -> Writer:
    return request.param()


class SlowDisk:
    """Holds every flush to disk back until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        flush = os.fsync

        def held(handle: int) -> None:
            self.reached.set()
            assert self.go_on.wait(60)
            flush(handle)

        monkeypatch.setattr(os, "fsync", held)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


def fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(writer: Writer, folder: Path, *steps: int) -> None:
    for step in steps:
        writer.save_checkpoint(
            {"step": step, "weights": torch.full((1000,), float(step))}, folder / f"step={step}.ckpt"
        )
    writer.wait()


def test_the_two_newest_are_kept(writer: Writer, folder: Path) -> None:
    save(writer, folder, 3, 6, 9, 12)
    assert names(folder) == ["step=12.ckpt", "step=9.ckpt"]
    assert writer.last == folder / "step=12.ckpt"
    assert writer.load_checkpoint(folder / "step=12.ckpt", weights_only=False)["step"] == 12


def test_what_others_put_there_is_left_alone(writer: Writer, folder: Path) -> None:
    writer.save_checkpoint({"step": 1}, folder / "best.ckpt")
    (folder / "step=1.ckpt.partial").write_bytes(b"of a start that was killed")
    save(writer, folder, 3, 6, 9)
    assert names(folder) == ["best.ckpt", "step=6.ckpt", "step=9.ckpt"]


def test_a_failed_write_leaves_what_was_there(writer: Writer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(writer, folder, 3, 6)
    with monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises(RunError, match=r"cannot write the checkpoint .*step=9.ckpt: .*No space.*--resume auto"):
            save(writer, folder, 9)
    assert names(folder) == ["step=3.ckpt", "step=6.ckpt"]
    save(writer, folder, 9)  # the error was told once
    assert names(folder) == ["step=6.ckpt", "step=9.ckpt"]


def test_the_snapshot_is_that_of_the_call(folder: Path, slow_disk: SlowDisk) -> None:
    writer = AsyncCheckpointIO()
    state: dict[str, Any] = {"weights": torch.zeros(4), "nested": [{"count": [1]}]}
    state["tied"] = state["weights"]
    writer.save_checkpoint(state, folder / "step=1.ckpt")
    assert slow_disk.reached.wait(60)
    state["weights"] += 1
    state["nested"][0]["count"].append(2)
    assert names(folder) == ["step=1.ckpt.partial"]
    slow_disk.go_on.set()
    writer.wait()
    saved = torch.load(folder / "step=1.ckpt", weights_only=False)
    assert saved["weights"].tolist() == [0, 0, 0, 0]
    assert saved["nested"] == [{"count": [1]}]
    assert saved["tied"].data_ptr() == saved["weights"].data_ptr()
    plain = io.BytesIO()
    torch.save(saved, plain)
    assert (folder / "step=1.ckpt").stat().st_size == pytest.approx(len(plain.getvalue()), rel=0.1)


def test_old_ones_stay_until_the_new_one_is_on_disk(folder: Path, slow_disk: SlowDisk) -> None:
    writer = AsyncCheckpointIO()
    slow_disk.go_on.set()
    save(writer, folder, 3, 6)
    slow_disk.go_on.clear()
    slow_disk.reached.clear()
    writer.save_checkpoint({}, folder / "step=9.ckpt")
    assert slow_disk.reached.wait(60)
    assert names(folder) == ["step=3.ckpt", "step=6.ckpt", "step=9.ckpt.partial"]
    # Another callback's order to remove one waits too, as it may be the one before this one.
    removal = threading.Thread(target=writer.remove_checkpoint, args=(folder / "step=6.ckpt",))
    removal.start()
    assert "step=6.ckpt" in names(folder)
    slow_disk.go_on.set()
    removal.join()
    assert names(folder) == ["step=9.ckpt"]


def test_one_is_written_at_a_time(folder: Path, slow_disk: SlowDisk) -> None:
    writer = AsyncCheckpointIO()
    writer.save_checkpoint({}, folder / "step=1.ckpt")
    assert slow_disk.reached.wait(60)
    second = threading.Thread(target=writer.save_checkpoint, args=({}, folder / "step=2.ckpt"))
    second.start()
    assert names(folder) == ["step=1.ckpt.partial"]
    slow_disk.go_on.set()
    second.join()
    writer.teardown()
    assert names(folder) == ["step=1.ckpt", "step=2.ckpt"]


def test_the_end_waits_for_the_last_one_and_tells_its_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = AsyncCheckpointIO()
    writer.save_checkpoint({}, folder / "step=1.ckpt")
    writer.teardown()
    assert names(folder) == ["step=1.ckpt"]
    fail(monkeypatch)
    writer.save_checkpoint({}, folder / "step=2.ckpt")
    with pytest.raises(RunError, match="step=2"):
        writer.teardown()


def test_what_ended_the_run_is_not_hidden_by_a_failed_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = AsyncCheckpointIO()
    fail(monkeypatch)
    writer.save_checkpoint({}, folder / "step=1.ckpt")

    def train() -> None:
        try:
            raise KeyError("the cause")
        except KeyError:
            writer.teardown()
            raise

    with caplog.at_level(logging.ERROR), pytest.raises(KeyError, match="the cause"):
        train()
    assert "cannot write the checkpoint" in caplog.text


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(torch.tensor([6.0] * 8).numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=False)  # which does not mind


@pytest.mark.parametrize("spoil", [cut, empty, zero, flip])
def test_a_damaged_checkpoint_is_passed_over_and_said_so(
    folder: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save(AtomicCheckpointIO(), folder, 3, 6)
    assert newest_checkpoint(folder.parent) == folder / "step=6.ckpt"
    spoil(folder / "step=6.ckpt")
    with caplog.at_level(logging.WARNING):
        assert resume_point(folder.parent, "auto") == folder / "step=3.ckpt"
    assert "step=6.ckpt is damaged" in caplog.text
    with pytest.raises(RunError, match=r"step=6.ckpt: the checkpoint is damaged.*--resume auto"):
        resume_point(folder.parent, str(folder / "step=6.ckpt"))
    cut(folder / "step=3.ckpt")
    with pytest.raises(RunError, match=r"every checkpoint in .* is damaged, the newest, step="):
        resume_point(folder.parent, "auto")


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert damage_of(tmp_path / "nowhere.ckpt") is not None


def test_of_two_written_in_one_tick_the_higher_step_is_newest(folder: Path) -> None:
    save(AtomicCheckpointIO(), folder, 9, 12)
    for name in ("step=9.ckpt", "step=12.ckpt"):
        os.utime(folder / name, ns=(1, 1))
    assert newest_checkpoint(folder.parent) == folder / "step=12.ckpt"


def test_the_first_of_many_writers_wins(tmp_path: Path) -> None:
    texts = [f"process {i}" for i in range(8)]
    gate = threading.Barrier(len(texts))

    def write(text: str) -> None:
        gate.wait()
        write_text_once(tmp_path / "id.txt", text)
        assert (tmp_path / "id.txt").read_text() in texts

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = (tmp_path / "id.txt").read_text()
    write_text_once(tmp_path / "id.txt", "a later start")
    assert (tmp_path / "id.txt").read_text() == first
    assert names(tmp_path) == ["id.txt"]
