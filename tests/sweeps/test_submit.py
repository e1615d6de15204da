"""Submitting sweeps: commands, manifests, who is chosen, and what an array task makes of its training's end.

Slurm's commands are stand-ins that note how they are called; tests/slurm has the real ones.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from bias_train.cli.main import main as program
from bias_train.cli.sweep import main
from bias_train.files import write_json
from bias_train.paths import find_script
from bias_train.sweeps.cells import Cell, expand
from bias_train.sweeps.claim import Claim
from bias_train.sweeps.manifest import Manifest, load_all
from bias_train.sweeps.queue import CellJobs, Task, ask, queue
from bias_train.sweeps.spec import load_sweep
from bias_train.sweeps.status import read_status

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = str(ROOT / "slurm" / "sweep.sbatch")

COMMANDS = {
    "sbatch": """
        [ -e refuse ] && { echo "sbatch: error: invalid partition" >&2; exit 1; }
        echo "$@" >> sbatch.calls
        echo $((100 + $(wc -l < sbatch.calls)))
    """,
    "squeue": """
        [ -e down ] && { echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }
        cat queue.txt 2>/dev/null || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
    """,
    "scontrol": """
        case $1 in
          show) echo "MaxArraySize            = 1001" ;;
          requeue) echo "$2" >> requeued; kill -TERM $PPID ;;  # as Slurm ends what it puts back
        esac
    """,
    "scancel": 'echo "$@" >> scancel.calls',
}

TRAINING = '''
"""Does as the cell's `act` says, like `fit`: writes what a training writes, and exits as it does."""
import json, os, signal, sys
from pathlib import Path

argv = sys.argv[1:]
assert argv[0] == "fit" and "--resume=auto" in argv, argv
folder = Path(argv[argv.index("--run_dir") + 1])
act = next(word.split("=", 1)[1] for word in argv if word.startswith("--act="))
with (folder / "attempts").open("a") as stream:
    stream.write(" ".join(argv) + "\\n")

def status(state, step, error=""):
    (folder / "draft").write_text(json.dumps({"state": state, "step": step, "error": error, "started": os.getpid()}))
    (folder / "draft").replace(folder / "status.json")

status("running", 3)
print("training", act, flush=True)
if act == "fail":
    status("failed", 4, "ValueError: loss is NaN at step 4")
    sys.exit("ValueError: loss is NaN at step 4")
if act == "refuse":
    print("bias-train fit: error: no such option --sahre", file=sys.stderr)
    sys.exit(2)
if act == "crash":
    sys.exit("ImportError: no module named torch")
if act == "stop":
    status("preempted", 5)
    sys.exit(138)
if act == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if act == "farther":
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / f"step={os.getpid()}.ckpt").touch()
    os.kill(os.getpid(), signal.SIGKILL)
status("done", 10)
'''


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, body in COMMANDS.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{textwrap.dedent(body)}")
        (bin_folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    Path("training.py").write_text(TRAINING)
    Path("base.yaml").write_text("trainer: {max_steps: 10}\n")


def make_sweep(*acts: str, **more: object) -> list[Cell]:
    axes = {"act": {"key": "act", "values": list(acts)}}
    document = {"name": "mix", "root": "runs/mix", "base": ["base.yaml"], "axes": axes, **more}
    Path("sweep.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return expand(load_sweep("sweep.yaml"))


def submit(*options: str) -> list[list[str]]:
    """Submit; returns the arguments of each call of sbatch."""
    Path("sbatch.calls").unlink(missing_ok=True)
    assert main(["submit", "sweep.yaml", *options]) == 0
    calls = Path("sbatch.calls")
    return [shlex.split(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def submitted(calls: list[list[str]]) -> list[list[str]]:
    """The ids that each array trains, by index."""
    return [[entry.id for entry in Manifest.load(Path(call[-1])).entries] for call in calls]


def in_queue(*lines: str) -> None:
    Path("queue.txt").write_text("".join(f"{line}\n" for line in lines))


def states(cells: list[Cell]) -> list[str]:
    return [read_status(cell.folder).state for cell in cells]


@contextmanager
def claimed_elsewhere(folder: Path) -> Iterator[None]:
    """Another process has the folder."""
    script = "import sys; from pathlib import Path; from bias_train.sweeps.claim import Claim; "
    script += "claim = Claim.take(Path(sys.argv[1])); print(claim, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        assert b"Claim" in other.stdout.readline()
        yield
        other.communicate(b"\n")


def set_state(cell: Cell, state: str, **fields: object) -> None:
    write_json(cell.folder / "status.json", {"state": state, "step": 3, "max_steps": 10, **fields})


def test_a_dry_run_prints_the_commands_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep("a", "b", "c", setup=[{"command": ["world", "my world"], "creates": "my world/index.arrow"}])
    before = sorted(Path().rglob("*"))
    options = ["--limit", "2", "--dry-run", "--", "--partition=gpu", "--comment=two words"]
    assert submit(*options) == []
    assert sorted(Path().rglob("*")) == before
    setup, command = capsys.readouterr().out.splitlines()
    assert setup == "bias-train world 'my world'"
    words = shlex.split(command)
    manifest = words.pop()
    assert words[:4] == ["sbatch", "--parsable", "--array=0-2%2", "--job-name=mix"]
    assert words[4] == f"--output={manifest.removesuffix('.json')}_%a.out"
    assert words[5:] == ["--partition=gpu", "--comment=two words", SHIPPED]
    assert Path(manifest).parent == Path("runs/mix/submissions")


def test_a_submission_writes_who_is_where_and_its_job() -> None:
    cells = make_sweep("a", "b", "c", setup=[["world", "made", "--samples", "2", "--size", "16"]])
    ((*_, file),) = submit()
    assert Path("made/index.arrow").is_file()  # the setup has run, here
    manifest = Manifest.load(Path(file))
    assert manifest.job == "101"
    assert [entry.folder for entry in manifest.entries] == [cell.folder for cell in cells]
    assert [entry.document for entry in manifest.entries] == [json.loads(json.dumps(c.document())) for c in cells]
    assert manifest.task(2) == "101_2"
    assert load_all(Path("runs/mix")) == [manifest]


def test_what_is_in_the_queue_or_done_is_not_submitted_again() -> None:
    cells = make_sweep("a", "b", "c")
    assert submitted(submit()) == [[cell.id for cell in cells]]
    in_queue("101_0|RUNNING|n1|None", "101_1|PENDING||Priority", "101_2|PENDING||Priority")
    assert submit() == []
    set_state(cells[0], "done")
    in_queue("101_1|COMPLETING|n1|None")
    assert submitted(submit("--only", "act=a", "--only", "act=b")) == [[cells[1].id]]

    in_queue()
    for cell in cells:
        set_state(cell, "done")
    wider = make_sweep("a", "new", "b", "c")
    assert submitted(submit()) == [[wider[1].id]]


def test_who_is_chosen() -> None:
    cells = make_sweep("pending", "done", "failed", "preempted", "interrupted", "running", "lost")
    pending, done, failed, preempted, interrupted, running, lost = cells
    assert submitted(submit("--only", "act=lost")) == [[lost.id]]
    for cell, state in ((done, "done"), (failed, "failed"), (preempted, "preempted"), (interrupted, "running")):
        set_state(cell, state)
    (interrupted.folder / ".lock").touch()
    with claimed_elsewhere(running.folder):
        chosen = [pending, preempted, interrupted, lost]
        assert submitted(submit()) == [[cell.id for cell in chosen]]
        assert submitted(submit("--retry-failed", "--only", "act=failed")) == [[failed.id]]
    assert [manifest.retry_failed for manifest in load_all(Path("runs/mix"))] == [False, False, True]


def test_more_cells_than_an_array_may_have_make_several_that_share_the_limit() -> None:
    cells = make_sweep(*"abcdefg")
    calls = submit("--max-array", "3", "--limit", "5")
    assert [call[1] for call in calls] == ["--array=0-2%2", "--array=0-2%2", "--array=0-0%1"]
    assert submitted(calls) == [[cell.id for cell in part] for part in (cells[:3], cells[3:6], cells[6:])]
    assert [manifest.job for manifest in load_all(Path("runs/mix"))] == ["101", "102", "103"]
    assert program(["sweep", "submit", "sweep.yaml", "--max-array", "3", "--limit", "2"]) == 2
    (Path("bin") / "scontrol").write_text("#!/bin/bash\necho 'MaxArraySize = 4'\n")
    assert [call[1] for call in submit()] == ["--array=0-3", "--array=0-2"]


@pytest.mark.parametrize(
    ("touch", "options", "message"),
    [
        ("refuse", [], "sbatch refused: sbatch: error: invalid partition"),
        ("down", [], "squeue refused: .*Unable to contact"),
        (None, ["--limit", "0"], "--limit must be at least 1"),
        (None, ["--max-array", "0"], "--max-array must be at least 1"),
        (None, ["--script", "mine.sbatch"], "--script mine.sbatch: no job script mine.sbatch here"),
    ],
)
def test_refusals_are_told_in_one_line_and_leave_nothing(
    touch: str | None, options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make_sweep("a")
    assert len(submit()) == 1
    before = load_all(Path("runs/mix"))
    in_queue()
    if touch:
        Path(touch).touch()
    assert program(["sweep", "submit", "sweep.yaml", *options]) == 2
    assert load_all(Path("runs/mix")) == before
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("bias-train sweep: error: ")
    assert re.search(message, said)


def test_two_submissions_at_once_do_not_choose_the_same_cells(capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep("a")
    with claimed_elsewhere(Path("runs/mix/submissions")):
        assert program(["sweep", "submit", "sweep.yaml"]) == 2
        assert "another `sweep submit` works in runs/mix" in capsys.readouterr().err


def test_without_slurm_submitting_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sweep("a")
    monkeypatch.setenv("PATH", "/nowhere")
    assert program(["sweep", "submit", "sweep.yaml"]) == 2
    assert "scontrol is not on this machine" in capsys.readouterr().err
    assert program(["sweep", "submit", "sweep.yaml", "--dry-run"]) == 0
    assert "--array=0-0" in capsys.readouterr().out
    assert program(["sweep", "status", "sweep.yaml"]) == 0


def test_cancel_names_the_tasks_of_the_chosen_cells(capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep(*"abcdef")
    submit("--max-array", "4")
    in_queue(*(f"101_{n}|PENDING||Priority" for n in (0, 1, 3)), "102_0|RUNNING|n1|None")
    assert main(["cancel", "sweep.yaml"]) == 0
    assert Path("scancel.calls").read_text().splitlines() == ["101_[0-1,3]", "102_[0]"]
    assert "4 tasks cancelled: 1 running" in capsys.readouterr().out.replace("\n", " ")
    assert main(["cancel", "sweep.yaml", "--only", "act=d"]) == 0
    assert Path("scancel.calls").read_text().splitlines()[2:] == ["101_[3]"]
    in_queue()
    assert main(["cancel", "sweep.yaml"]) == 0
    assert "none of these cells is in the queue" in capsys.readouterr().out


def test_status_joins_the_folders_and_the_queue(capsys: pytest.CaptureFixture[str]) -> None:
    cells = make_sweep("runs", "waits", "gone", "dead", "stopped", "failed", "done")
    submit()
    in_queue("101_0|RUNNING|n1|None", "101_1|PENDING||Resources", "101_4|PENDING||BeginTime", "101_6|RUNNING|n2|None")
    for cell, state in zip(cells, ["running", None, None, "running", "preempted", "failed", "done"], strict=True):
        if state:
            set_state(cell, state, error="too large" if state == "failed" else "")
    (cells[5].folder / "log.txt").write_text("one\ntwo\n")
    capsys.readouterr()
    assert main(["status", "sweep.yaml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(entry["state"], entry["job"], entry["nodes"], entry["reason"]) for entry in told] == [
        ("running", "101_0", "n1", ""),
        ("pending", "101_1", "", "Resources"),
        ("lost", "101_2", "", ""),
        ("interrupted", "", "", ""),
        ("preempted", "101_4", "", "BeginTime"),
        ("failed", "", "", ""),
        ("done", "", "", ""),
    ]
    assert told[5]["log"] == ["one", "two"]
    assert main(["status", "sweep.yaml"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 done, 1 failed, 1 running, 1 interrupted, 1 preempted, 1 lost, 1 pending; 2 of them wait" in text
    assert f"the end of {cells[5].folder / 'log.txt'}: one two" in text
    Path("down").touch()
    assert main(["status", "sweep.yaml", "--json"]) == 0
    said = capsys.readouterr()
    assert "without Slurm's word: squeue refused" in said.err
    assert [entry["state"] for entry in json.loads(said.out)][2:] == [
        "pending", "running", "preempted", "failed", "done",
    ]  # fmt: skip


def test_a_job_that_has_ended_does_not_make_its_cell_run(tmp_path: Path) -> None:
    """Between its last word and the queue's forgetting it, a task still counts as running there."""
    task = Task("7_0", "RUNNING", "n1")
    for state, ours, told in [
        ("failed", "7_0", "failed"),
        ("failed", "6_0", "running"),
        ("preempted", "7_0", "preempted"),
    ]:
        write_json(tmp_path / "status.json", {"state": state})
        write_json(tmp_path / "job.json", {"job": ours})
        assert read_status(tmp_path, CellJobs(("6_0", "7_0"), (task,))).state == told


def test_queue_reads_what_squeue_prints() -> None:
    in_queue(
        "12_3|RUNNING|node[1-2]|None", "12_4|PENDING||(JobArrayTaskLimit)", "12_5|COMPLETED|n|None", "13|PENDING||x"
    )
    assert queue(["12"]) == {
        "12_3": Task("12_3", "RUNNING", "node[1-2]", ""),
        "12_4": Task("12_4", "PENDING", "", "(JobArrayTaskLimit)"),
        "13": Task("13", "PENDING", "", "x"),
    }
    Path("queue.txt").unlink()
    assert queue(["12"]) == {}
    assert ask(["scontrol", "show", "config"]).startswith("MaxArraySize")


def test_scripts_are_found_here_first_and_shipped_otherwise() -> None:
    assert find_script("sweep.sbatch") == Path(SHIPPED)
    Path("slurm").mkdir()
    Path("slurm/sweep.sbatch").touch()
    assert find_script("sweep.sbatch") == Path("slurm/sweep.sbatch")
    Path("mine.sh").touch()
    assert find_script("mine.sh") == Path("mine.sh")
    with pytest.raises(FileNotFoundError, match=r"no job script other\.sbatch"):
        find_script("other.sbatch")


# ---- an array task ----


def run_task(index: int = 0, **variables: str) -> tuple[int, str]:
    """Run the newest submission's task as the job script does; returns the exit code and what it said."""
    manifest = load_all(Path("runs/mix"))[-1].file
    slurm = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": str(index), **variables}
    command = [sys.executable, "-m", "bias_train.cli.main", "sweep", "cell", str(manifest)]
    done = subprocess.run(
        [*command, "--max-restarts", "5", "--", sys.executable, "training.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **slurm},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def attempts(cell: Cell) -> list[str]:
    return (cell.folder / "attempts").read_text().splitlines()


def requeued() -> list[str]:
    return Path("requeued").read_text().split() if Path("requeued").exists() else []


def test_a_task_trains_its_cell() -> None:
    cells = make_sweep("a", "b")
    submit()
    code, said = run_task(1, SLURM_JOB_NUM_NODES="2", SLURM_NTASKS_PER_NODE="4")
    assert (code, said.splitlines()[-1]) == (0, f"{cells[1].id}: done")
    assert states(cells) == ["pending", "done"]
    document = json.loads(json.dumps(cells[1].document()))
    assert json.loads((cells[1].folder / "cell.json").read_text()) == document
    words = ["fit", *document["argv"], "--resume=auto", "--trainer.num_nodes=2", "--trainer.devices=4"]
    assert attempts(cells[1]) == [" ".join(words)]
    assert json.loads((cells[1].folder / "job.json").read_text())["job"] == "101_1"
    assert run_task(1) == (0, f"{cells[1].id}: left alone: it is done\n")
    assert run_task(2)[0] == 2


@pytest.mark.parametrize(
    ("act", "error"),
    [
        ("fail", "ValueError: loss is NaN at step 4"),
        ("refuse", "no such option --sahre"),
        ("crash", "ImportError: no module named torch"),
    ],
)
def test_a_failure_is_recorded_and_not_repeated(act: str, error: str) -> None:
    (cell,) = make_sweep(act)
    submit()
    code, said = run_task()
    assert code == 1
    assert error in said
    assert read_status(cell.folder).state == "failed"
    assert read_status(cell.folder).error == error
    assert requeued() == []
    assert "left alone: it has failed" in run_task(SLURM_ARRAY_JOB_ID="102")[1]
    leftover = cell.folder / "checkpoints" / "step=4.ckpt"
    leftover.parent.mkdir()
    leftover.touch()
    submit("--retry-failed")
    run_task(SLURM_ARRAY_JOB_ID="102")
    assert len(attempts(cell)) == 1  # the folder was emptied
    assert not leftover.exists()


def test_a_stop_with_a_checkpoint_ends_the_task_as_it_is() -> None:
    (cell,) = make_sweep("stop")
    submit()
    assert run_task()[0] == 138
    assert states([cell]) == ["preempted"]
    assert requeued() == []  # the training has seen to that


def test_a_kill_puts_the_task_back_until_it_gets_no_farther() -> None:
    (cell,) = make_sweep("kill")
    submit()
    for restart in ("", "1", "2"):
        assert run_task(SLURM_RESTART_COUNT=restart)[0] == -signal.SIGTERM
    assert states([cell]) == ["interrupted"]
    assert requeued() == ["101_0"] * 3
    code, said = run_task(SLURM_RESTART_COUNT="3")
    assert code == 1
    assert "exit code 137; given up after 3 restarts" in said
    assert requeued() == ["101_0"] * 3
    status = read_status(cell.folder)
    assert status.state == "interrupted"  # no failure of the training: who submits it again goes on with it
    assert "given up after 3 restarts" in status.last_line


def test_a_kill_after_a_new_checkpoint_has_more_restarts() -> None:
    make_sweep("farther")
    submit()
    assert run_task(SLURM_RESTART_COUNT="4")[0] == -signal.SIGTERM
    assert run_task(SLURM_RESTART_COUNT="5")[0] == 1  # --max-restarts
    assert requeued() == ["101_0"]


def test_a_cell_that_another_process_has_is_left_alone() -> None:
    (cell,) = make_sweep("a")
    submit()
    claim = Claim.take(cell.folder)
    assert claim is not None
    assert run_task() == (0, f"{cell.id}: left alone: another process trains it\n")
    assert not (cell.folder / "attempts").exists()
    claim.release()


def test_a_configuration_edited_since_the_submission_is_not_trained_under_the_old_name() -> None:
    (cell,) = make_sweep("a")
    submit()
    Path("base.yaml").write_text("trainer: {max_steps: 11}\n")
    code, said = run_task()
    assert code == 2
    assert "configuration files have changed since the submission" in said
    assert not (cell.folder / "attempts").exists()
    assert "have changed" in read_status(cell.folder).last_line


def test_a_launcher_that_is_missing_is_named() -> None:
    make_sweep("a")
    submit()
    (manifest,) = load_all(Path("runs/mix"))
    assert program(["sweep", "cell", str(manifest.file), "--index", "0", "--", "no-such-launcher"]) == 2


def test_a_manifest_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["sweep", "cell", "nowhere.json", "--index", "0"]) == 2
    assert "nowhere.json: no such manifest" in capsys.readouterr().err
    Path("old.json").write_text('{"version": 0}')
    assert program(["sweep", "cell", "old.json", "--index", "0"]) == 2
    assert "version 0" in capsys.readouterr().err
    assert program(["sweep", "plan", "nowhere.yaml", "--", "x"]) == 2


def test_a_batch_shell_loads_no_pytorch() -> None:
    script = "import sys, bias_train.cli.sweep, bias_train.sweeps.array_task; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True, env=dict(os.environ)).strip() == "False"
