"""``bias-train wandb sync``: what it finds, in which order it sends, and what it says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from offline_run import parts_of
from wandb_server import environment, serving, silent_port

from bias_train.callbacks.stream_monitor import StreamMonitor
from bias_train.cli import wandb as command
from bias_train.cli.fit import fit
from bias_train.cli.main import main
from bias_train.errors import RunError
from bias_train.preemption import Preempted
from bias_train.tracking import offline_runs
from bias_train.tracking.offline_runs import Part, find_parts, send_run, sync_command
from bias_train.tracking.wandb_file import has_ended, records


@pytest.fixture(scope="module")
def made(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two run folders with offline runs: ``one`` was stopped after four steps and went on, ``two`` was not."""
    folder = tmp_path_factory.mktemp("made")
    document = yaml.safe_load(config.read_text())
    document["trainer"]["callbacks"][0]["init_args"]["examples"] = 0  # tables take more of a server
    document["logging"] = {"tensorboard": False}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))

    def stop(self: StreamMonitor, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def train(name: str, *arguments: str) -> None:
        fit(["--config", str(folder / "config.yaml"), "--run_dir", str(folder / "runs" / name), *arguments])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamMonitor, "on_train_batch_start", stop)
        with pytest.raises(Preempted):
            train("one")
    train("one", "--resume=auto")
    train("two", "--trainer.max_steps=2")
    return folder / "runs"


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


def sync(cwd: Path, address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bias_train.cli.main", "wandb", "sync", *arguments],
        cwd=cwd, env=environment(address), capture_output=True, text=True, check=False,
    )  # fmt: skip


def identity(run: Path) -> str:
    return (run / "wandb_id.txt").read_text().strip()


def test_the_parts_of_a_run_become_one_run(runs: Path) -> None:
    one, two = identity(runs / "one"), identity(runs / "two")
    with serving() as server:
        done = sync(runs.parent, server.address)
        assert done.returncode == 0, done.stdout + done.stderr
        assert sorted(done.stdout.splitlines()) == sorted(
            [
                f"sent    {runs / 'one'} ({one}, part 1 of 2)",
                f"sent    {runs / 'one'} ({one}, part 2 of 2)",
                f"sent    {runs / 'two'} ({two})",
            ]
        )
        again = sync(runs.parent, server.address)
        assert again.returncode == 0
        assert again.stdout.strip() == "nothing to send: 2 offline runs in runs, all sent"
    assert set(server.upserts) == {one, two}
    for run, steps in ((one, 6), (two, 2)):
        history = [server.history[run][line] for line in sorted(server.history[run])]
        assert [row["trainer/global_step"] for row in history if "train/loss" in row] == list(range(steps))
        # W&B drops rows whose own counter goes back.
        assert [row["_step"] for row in history] == list(range(len(history)))
    sent = [row for part in parts_of(runs / "one") for row in part.history]
    assert len(server.history[one]) == len(sent)


@pytest.mark.parametrize("kind", ["refusing", "stalling"])
def test_without_a_network_each_run_has_one_line(runs: Path, kind: str) -> None:
    with silent_port(kind) as address:
        done = sync(runs.parent, address, "--timeout=1")
    assert done.returncode == 1
    trouble = "cannot be reached" if kind == "refusing" else "does not answer"
    assert done.stdout.splitlines() == [
        f"failed  {runs / name} ({identity(runs / name)}): {address} {trouble}" for name in ("one", "two")
    ]
    assert "Traceback" not in done.stderr
    assert not list(runs.rglob("*.synced"))


def stub(monkeypatch: pytest.MonkeyPatch, *failing: str) -> list[list[str]]:
    """Put a program in the place of ``wandb sync`` that marks what it is given, unless that is to fail."""
    asked: list[list[str]] = []
    program = (
        "import sys, pathlib\n"
        f"folder = pathlib.Path(sys.argv[-1])\nif not any(part in str(folder) for part in {failing!r}):\n"
        "    [file.with_name(file.name + '.synced').touch() for file in folder.glob('*.wandb')]\n"
        "else:\n    print('wandb: ERROR the server is full')\n"
    )

    def instead(part: Part, options: Sequence[str] = ()) -> list[str]:
        asked.append(sync_command(part, options))
        return [sys.executable, "-c", program, asked[-1][-1]]

    monkeypatch.setattr(offline_runs, "sync_command", instead)
    monkeypatch.setattr(offline_runs, "unreachable", lambda timeout_s: None)
    return asked


def test_the_command_is_wandbs_own(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stub(monkeypatch)
    assert main(["wandb", "sync", str(runs / "two"), "--entity=team", "--project=other"]) == 0
    (folder,) = (runs / "two").glob("wandb/offline-run-*")
    assert asked == [[sys.executable, "-m", "wandb", "sync", "--entity=team", "--project=other", str(folder)]]


def test_the_others_are_sent_after_a_failure(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (parts[0] for parts in find_parts([runs]))
    stub(monkeypatch, first.file.parent.name)
    assert main(["wandb", "sync", str(runs)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"failed  {first.run_dir} ({first.id}, part 1 of 2): the server is full",
        f"waiting {first.run_dir} ({first.id}, part 2 of 2): an earlier part must be sent first",
        f"sent    {second.run_dir} ({second.id})",
    ]


def test_the_same_folder_is_found_by_any_of_its_names(runs: Path) -> None:
    (folder,) = (runs / "two").glob("wandb/offline-run-*")
    for name in (runs / "two", runs / "two" / "wandb", folder):
        ((part,),) = find_parts([name])
        assert (part.file.parent.resolve(), part.run_dir) == (folder.resolve(), (runs / "two").resolve())
        assert part.id == identity(runs / "two")
    assert len(find_parts([runs, runs / "two"])) == 2
    with pytest.raises(RunError, match="is no folder"):
        find_parts([runs / "three"])


def cut_off(file: Path) -> None:
    """Leave the file as a process leaves it that is killed, or at work."""
    whole = len(list(records(file)))
    while len(list(records(file))) == whole or has_ended(file):
        file.write_bytes(file.read_bytes()[:-200])


def test_what_is_still_written_is_left_alone_until_it_is_silent(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch)
    ((part,),) = find_parts([runs / "two"])
    assert has_ended(part.file)
    cut_off(part.file)
    assert [outcome.result for outcome in send_run([part])] == ["running"]
    os.utime(part.file, (0, 0))
    assert [outcome.result for outcome in send_run([part])] == ["sent"]
    assert send_run([part]) == []


def test_what_was_cut_off_and_went_on_is_sent(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch)
    (parts,) = find_parts([runs / "one"])
    cut_off(parts[0].file)
    assert [outcome.result for outcome in send_run(parts)] == ["sent", "sent"]


def test_watching_says_only_what_is_new(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, "two")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", wait)
    assert main(["wandb", "sync", str(runs), "--watch=5"]) == 130
    assert waits == [5, 5, 5]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["sent", "sent", "failed"] or len(lines) == len(set(lines)) == 3


def test_a_wrong_wait_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wandb", "sync", "--watch=0"]) == 2
    assert "--watch takes seconds above 0" in capsys.readouterr().err


def test_a_file_that_was_cut_off_anywhere_is_read_up_to_there(made: Path, tmp_path: Path) -> None:
    (file,) = made.glob("two/wandb/offline-run-*/*.wandb")
    whole, data = list(records(file)), file.read_bytes()
    for size in (0, 6, 7, 13, len(data) // 3, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.wandb").write_bytes(data[:size])
        found = list(records(tmp_path / "cut.wandb"))
        assert found == whole[: len(found)]
        assert len(found) < len(whole)
