from __future__ import annotations

import csv
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from bias_train.cli.main import main, user_message
from bias_train.errors import RunError
from datamodules.errors import DataError
from models.errors import ModelError

Train = Callable[..., Path]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_that_a_report_reads(train: Train) -> None:
    folder = train("--logging.tensorboard=true")
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["step"], status["max_steps"]) == ("done", 6, 6)
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["share"] == 0.5
    assert "torch" in json.loads((folder / "environment.json").read_text())["packages"]
    records = rows(folder / "records.csv")
    assert {record["step"] for record in records} == {"3", "6"}
    assert {"relative_delta_R", "pair_win_rate", "source_share", "t2i_R"} <= {record["name"] for record in records}
    assert all(
        float(r["low"]) <= float(r["value"]) <= float(r["high"]) for r in records if r["name"] == "pair_win_rate"
    )
    metrics = rows(folder / "metrics.csv")
    logged = {name for row in metrics for name, value in row.items() if value}
    assert {
        "train/loss",
        "train/contrastive/infonce",
        "train/debias/rank_hinge",
        "train/debias/gradient_share",
        "train/logit_scale",
        "bias/source/relative_delta_R@1/ratio=0.5",
        "bias/source/pair_win_rate/ratio=0.5",
        "retrieval/t2i_R@1/ratio=0",
    } <= logged
    examples = json.loads((folder / "examples" / "examples.json").read_text())
    assert len(examples) == 2
    assert all((folder / "examples" / result["file"]).is_file() for e in examples for result in e["results"])
    assert list((folder / "checkpoints").glob("*.ckpt"))
    assert list((folder / "tensorboard").glob("events.*"))


def test_the_same_seed_gives_the_same_metrics_bit_for_bit(train: Train) -> None:
    first, second, other = train(name="a"), train(name="b"), train("--seed_everything=4", name="c")
    assert (first / "records.csv").read_bytes() == (second / "records.csv").read_bytes()
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    assert (first / "records.csv").read_bytes() != (other / "records.csv").read_bytes()


def test_a_stopped_run_goes_on_to_the_same_end(train: Train) -> None:
    whole = train("--model.schedule.total_steps=6", name="whole")
    cut = train("--trainer.max_steps=3", "--model.schedule.total_steps=6", name="cut")
    train("--resume=auto", "--model.schedule.total_steps=6", name="cut")
    assert rows(cut / "records.csv") == rows(whole / "records.csv")
    assert rows(cut / "metrics.csv") == rows(whole / "metrics.csv")
    states = [torch.load(f / "checkpoints" / "step=6.ckpt", weights_only=False)["state_dict"] for f in (whole, cut)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=0)


def test_the_trained_retriever_starts_the_next_run(train: Train) -> None:
    first = train(name="first")
    weights = f"--model.retriever.pretrained={first / 'retriever.safetensors'}"
    second = train(weights, "--trainer.num_sanity_val_steps=-1", name="second")

    def figures(folder: Path, step: str) -> list[dict[str, str]]:
        return [{**record, "step": ""} for record in rows(folder / "records.csv") if record["step"] == step]

    assert figures(second, "0") == figures(first, "6")


def test_a_finished_run_is_not_overwritten(train: Train) -> None:
    train()
    with pytest.raises(RunError, match=r"holds a run already.*--resume auto"):
        train()
    train("--resume=auto")


def test_resuming_under_another_plan_names_the_difference(train: Train) -> None:
    train("--trainer.max_steps=3")
    with pytest.raises(DataError, match=r"share was 0.5, is 0.25"):
        train("--resume=auto", "--data.share=0.25")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--data.share=1.5"], DataError, r"data.share must lie in \[0, 1\], got 1.5"),
        (["--data.twin_share=0"], ModelError, "set data.twin_share above 0"),
        (["--data.generators={sdxl: 1.0}"], DataError, "'sdxl', which no shard holds"),
        (["--data.train=[nowhere]"], DataError, "nowhere"),
        (["--data.shar=0.5"], RunError, "shar"),
        (["--model.losses.debias.loss=losses.Nonsense"], RunError, "Nonsense"),
        (["--config", "nowhere.yaml"], FileNotFoundError, "nowhere.yaml"),
        (["--trainer.max_steps=-1"], RunError, "trainer.max_steps must be set"),
        (["--resume=nowhere.ckpt"], RunError, "nowhere.ckpt"),
        (["--model.optimizer.lr=1e30"], ModelError, r"step \d.*NaN"),
    ],
)
def test_a_wrong_option_is_one_clear_error(
    train: Train, arguments: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        train(*arguments)
    assert user_message(caught.value)


def test_a_failed_run_says_so(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        train("--model.optimizer.lr=1e30")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert "NaN" in status["error"]


def test_wandb_offline_keeps_one_run_over_a_restart(train: Train) -> None:
    options = ["--logging.wandb=true", "--logging.project=trial", "--logging.tags=[a]"]
    folder = train(*options, "--trainer.max_steps=3")
    identity = (folder / "wandb_id.txt").read_text()
    train(*options, "--resume=auto")
    assert (folder / "wandb_id.txt").read_text() == identity
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert all(identity.strip() in file.name for file in files)
    history, tables = _history(files)
    assert {"train/loss", "bias/source/relative_delta_R@1/ratio=0.5", "retrieval/t2i_R@1/ratio=0"} <= set(history)
    assert tables == {"bias/source/examples"}


def _history(files: list[Path]) -> tuple[set[str], set[str]]:
    """Read W&B's own files back: names of scalars and of tables."""
    from wandb.proto import wandb_internal_pb2

    names, tables = set(), set()
    for file in files:
        for data in _log_records(file.read_bytes()):
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(data)
            for item in entry.history.item:
                name = item.key or "/".join(item.nested_key)
                names.add(name)
                if "table-file" in item.value_json:
                    tables.add(name.removesuffix("/_type"))
    return names, tables


def _log_records(data: bytes) -> Iterator[bytes]:
    """Split a LevelDB log, the form of a .wandb file, into its records (blocks of 32 KiB, 7-byte record headers)."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def _command(config: Path, run: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "bias_train.cli.main",
        "fit",
        "--config",
        str(config),
        "--run_dir",
        str(run),
        *arguments,
    ]


def test_a_full_disk_is_one_clear_error_and_keeps_the_last_checkpoint(config: Path, tmp_path: Path) -> None:
    def no_large_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(
        _command(config, tmp_path / "run"), preexec_fn=no_large_files, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write the checkpoint" in done.stderr.splitlines()[-1]
    assert "--resume auto" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    again = subprocess.run(
        _command(config, tmp_path / "run", "--resume=auto"), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr


def test_a_killed_run_resumes(config: Path, tmp_path: Path) -> None:
    long = ["--trainer.max_steps=100000", "--trainer.val_check_interval=10", "--checkpoint_every=5"]
    with subprocess.Popen(_command(config, tmp_path / "run", *long), stderr=subprocess.DEVNULL) as process:
        while not list((tmp_path / "run").glob("checkpoints/*.ckpt")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    # The kill may fall between the writing of one checkpoint and the removal of the one before.
    step = max(int(path.stem.removeprefix("step=")) for path in (tmp_path / "run").glob("checkpoints/*.ckpt"))
    done = subprocess.run(
        _command(config, tmp_path / "run", "--resume=auto", f"--trainer.max_steps={step + 4}"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["step"] == step + 4


def test_the_program_answers_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert "no command 'nonsense'" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "demo" in capsys.readouterr().out
    assert main(["fit", "--config", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err.startswith("bias-train fit: error: no configuration nowhere.yaml")


def test_help_imports_no_heavy_library() -> None:
    code = "import sys; from bias_train.cli.main import main; main(['--help']); print([m for m in ('torch', 'numpy', 'lightning') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
