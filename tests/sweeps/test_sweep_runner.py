"""Running sweeps: real processes with a stand-in for the training that succeeds, fails, dies or waits as told."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from bias_train.cli.main import main as program
from bias_train.cli.sweep import main, run_cells
from bias_train.sweeps.cells import Cell, expand
from bias_train.sweeps.claim import Claim, is_claimed
from bias_train.sweeps.files import last_lines, read_json
from bias_train.sweeps.runner import Runner
from bias_train.sweeps.spec import Sweep, load_sweep
from bias_train.sweeps.status import read_status

FAKE = '''
import json, os, signal, sys, time
from pathlib import Path

def fit(argv):
    """Do as the cell's `act` says; write what a training writes."""
    folder = Path(argv[argv.index("--run_dir") + 1])
    act = next(word.split("=", 1)[1] for word in argv if word.startswith("--act="))
    def status(**fields):
        draft = folder / "draft"
        draft.write_text(json.dumps({"max_steps": 10, "started": time.time(), "error": None, **fields}))
        draft.replace(folder / "status.json")
    with (folder / "attempts").open("a") as stream:
        stream.write(f"{os.getpid()} {time.time()}\\n")
    status(state="running", step=3)
    print("training", act, flush=True)
    if act == "fail":
        status(state="failed", step=4, error="loss is NaN at step 4; lower the learning rate")
        raise ValueError("loss is NaN at step 4; lower the learning rate")
    if act == "refuse":
        print("usage: fit\\nerror: no such option\\n  - try another", file=sys.stderr)
        raise SystemExit(2)
    if act == "lack":
        class DataError(ValueError):
            pass
        raise DataError("shards/train has no index")
    if act == "die":
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "forget":
        return
    if act == "wait" and len((folder / "attempts").read_text().splitlines()) == 1:
        (folder / "waiting").touch()
        try:
            while True:
                time.sleep(0.02)
        finally:
            status(state="failed", step=3, error="should not be seen")
    if act == "meet":
        (folder / "here").touch()
        deadline = time.time() + 20
        while len(list(folder.parent.glob("*/here"))) < 2 and time.time() < deadline:
            time.sleep(0.02)
        if time.time() >= deadline:
            raise RuntimeError("nobody came")
    (folder / "records.csv").write_text("done")
    status(state="done", step=10)

def command(argv):
    if argv[0] == "fail":
        return 3
    with open("commands.txt", "a") as stream:
        stream.write(" ".join(argv) + "\\n")
    if argv[0] == "make":
        Path(argv[1]).touch()
    return 0
'''


@pytest.fixture(autouse=True)
def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_training.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def make_sweep(*acts: str, **more: object) -> tuple[Sweep, list[Cell]]:
    document = {"root": "runs", "axes": {"act": {"key": "act", "values": list(acts)}}, **more}
    Path("sweep.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    sweep = load_sweep("sweep.yaml")
    return sweep, expand(sweep)


def make_runner(**options: object) -> tuple[Runner, io.StringIO]:
    said = io.StringIO()
    defaults = {"fit": "fake_training:fit", "command": "fake_training:command", "preload": (), "grace": 5.0}
    return Runner(console=Console(file=said, width=200), **{**defaults, **options}), said  # type: ignore[arg-type]


def attempts(cell: Cell) -> int:
    return len((cell.folder / "attempts").read_text().splitlines())


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_failures_are_told_and_the_others_go_on() -> None:
    sweep, cells = make_sweep("fail", "die", "refuse", "forget", "lack", "train")
    runner, said = make_runner()
    assert run_cells(sweep, cells, runner) == 1
    states = {cell.axes["act"]: read_status(cell.folder) for cell in cells}
    assert {act: status.state for act, status in states.items()} == {
        **dict.fromkeys(("fail", "die", "refuse", "forget", "lack"), "failed"),
        "train": "done",
    }
    assert states["fail"].error == "loss is NaN at step 4; lower the learning rate"
    assert "killed by SIGKILL" in states["die"].error
    assert states["die"].last_line == "last words"
    assert states["refuse"].error == "no such option"
    assert states["lack"].error == "shards/train has no index"
    assert "DataError" not in (cells[4].folder / "log.txt").read_text()  # the user's to mend: one line, no traceback
    assert "left its state at 'running'" in states["forget"].error
    text = said.getvalue()
    assert "1 of 6 cells done, 5 failed" in text
    assert "    last words" in text
    assert "ValueError: loss is NaN" in text
    cell = cells[0]
    assert read_json(cell.folder / "cell.json") == json.loads(json.dumps(cell.document()))


def test_finished_cells_are_skipped_and_failed_ones_wait_for_a_word() -> None:
    sweep, cells = make_sweep("fail", "train")
    run_cells(sweep, cells, make_runner()[0])
    runner, said = make_runner()
    assert run_cells(sweep, cells, runner) == 1
    assert [attempts(cell) for cell in cells] == [1, 1]
    assert "2 of 2 cells were finished before, 1 of them failed (--retry-failed" in said.getvalue()

    leftover = cells[0].folder / "checkpoints"
    leftover.mkdir()
    assert run_cells(sweep, cells, make_runner(retry_failed=True)[0]) == 1
    assert not leftover.exists()  # started anew, in an empty folder
    assert [attempts(cell) for cell in cells] == [1, 1]


def test_cells_have_processes_of_their_own_that_run_at_once() -> None:
    sweep, cells = make_sweep(
        "meet", axes={"act": {"key": "act", "values": ["meet"]}, "n": {"key": "n", "values": [0, 1]}}
    )
    assert run_cells(sweep, cells, make_runner(jobs=2)[0]) == 0
    pids = {(cell.folder / "attempts").read_text().split()[0] for cell in cells}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids


def start_sweep(*options: str) -> subprocess.Popen[str]:
    """Run the sweep in another process, as the command does."""
    script = textwrap.dedent(
        """
        import sys
        from rich.console import Console
        from bias_train.cli.sweep import run_cells
        from bias_train.sweeps.cells import expand
        from bias_train.sweeps.runner import Runner
        from bias_train.sweeps.spec import load_sweep
        if __name__ == "__main__":
            sweep = load_sweep("sweep.yaml")
            runner = Runner(fit="fake_training:fit", command="fake_training:command", preload=(), grace=5.0)
            sys.exit(run_cells(sweep, expand(sweep), runner))
        """
    )
    Path("start.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.Popen(
        [sys.executable, "start.py", *options],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_sweep_ends_its_children_and_resumes(signum: signal.Signals) -> None:
    sweep, cells = make_sweep("train", "wait", "meet", exclude=[{"act": "meet"}])
    process = start_sweep()
    waiting = cells[1].folder
    wait_for((waiting / "waiting").exists)
    assert read_status(waiting).state == "running"
    assert read_status(waiting).step == 3
    child = int((waiting / "attempts").read_text().split()[0])
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    if signum == signal.SIGKILL:
        wait_for(lambda: not is_claimed(waiting))
    else:
        assert process.returncode == 128 + signum
        assert f"ended by {signum.name}; what is done is kept" in said
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())
    assert [read_status(cell.folder).state for cell in cells] == ["done", "interrupted"]

    assert run_cells(sweep, cells, make_runner()[0]) == 0
    assert [attempts(cell) for cell in cells] == [1, 2]
    assert [read_status(cell.folder).state for cell in cells] == ["done", "done"]


def test_a_cell_that_another_process_trains_is_left_alone() -> None:
    sweep, cells = make_sweep("wait", "train")
    other = start_sweep()
    wait_for((cells[0].folder / "waiting").exists)
    runner, said = make_runner()
    assert run_cells(sweep, cells, runner) == 0
    assert "another process trains it" in said.getvalue()
    assert [read_status(cell.folder).state for cell in cells] == ["running", "done"]
    other.terminate()
    other.communicate(timeout=60)
    assert attempts(cells[0]) == 1


def test_a_claim_excludes_other_processes_until_it_is_released(tmp_path: Path) -> None:
    take = f"print(Claim.take(Path({str(tmp_path)!r})))"
    script = f"from bias_train.sweeps.claim import Claim; from pathlib import Path; {take}"
    claim = Claim.take(tmp_path)
    assert claim is not None
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "None"
    claim.release()
    assert "Claim object" in subprocess.check_output([sys.executable, "-c", script], text=True)


def test_setup_runs_once() -> None:
    setup = [{"command": ["make", "made"], "creates": "made"}, ["bias-train", "count", 3]]
    sweep, cells = make_sweep("train", setup=setup)
    for _ in range(2):
        run_cells(sweep, cells, make_runner()[0])
    assert Path("commands.txt").read_text().splitlines() == ["make made", "count 3"]


@pytest.mark.parametrize(
    ("step", "message"),
    [(["fail"], "`bias-train fail` failed with exit code 3"), ({"command": ["x"], "creates": "y"}, "did not create y")],
)
def test_a_setup_that_fails_stops_the_sweep(step: object, message: str) -> None:
    sweep, cells = make_sweep("train", setup=[step])
    with pytest.raises(ValueError, match=message):
        run_cells(sweep, cells, make_runner()[0])
    assert not cells[0].folder.exists()


def test_status_and_plan_read_the_folders_only(capsys: pytest.CaptureFixture[str]) -> None:
    sweep, cells = make_sweep("train", "fail", "pending")
    run_cells(sweep, cells[:2], make_runner()[0])
    assert main(["status", "sweep.yaml", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["state"] for entry in document] == ["done", "failed", "pending"]
    assert document[1]["error"].startswith("loss is NaN")
    assert document[0]["axes"] == {"act": "train"}

    assert main(["status", "sweep.yaml"]) == 0
    assert "1 done, 1 failed, 1 pending" in capsys.readouterr().out.replace("\n", " ")
    assert main(["plan", "sweep.yaml", "--only", "act=pending"]) == 0
    assert cells[2].command() in capsys.readouterr().out
    assert main(["plan", "sweep.yaml", "--json"]) == 0
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)] == [cell.id for cell in cells]


def test_the_command_names_mistakes_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep("train")
    assert program(["sweep", "run", "sweep.yaml", "--jobs", "0"]) == 2
    assert capsys.readouterr().err == "bias-train sweep: error: --jobs must be at least 1, got 0\n"
    assert program(["sweep", "plan", "nowhere.yaml"]) == 2
    assert "error: no configuration nowhere.yaml" in capsys.readouterr().err


def test_last_lines_show_what_a_progress_bar_said_last(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("a\n\n 10 %\r 20 %\r\nb\rc\n")
    assert last_lines(log, 2) == [" 20 %", "c"]
    assert last_lines(tmp_path / "none", 2) == []
