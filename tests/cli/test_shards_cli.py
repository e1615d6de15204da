from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bias_train.cli.shards import main
from datamodules.index import ShardIndex


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes of four pictures."""
    rng = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path / "classes" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return tmp_path / "classes"


def test_import_then_inspect(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("real", "sd-1.4"):
        arguments = ["import", "classes", str(classes), str(tmp_path / source), "--source", source, "--holdout", "0.25"]
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert f"{tmp_path / source / 'train'}: 6 samples, 6 pictures in 1 shards ({source})" in out
        assert f"{tmp_path / source / 'val'}: 2 samples" in out
    sheet = tmp_path / "sheet.png"
    sets = [str(tmp_path / source / "train") for source in ("real", "sd-1.4")]
    assert main(["inspect", *sets, "--decode", "--verify", "--contact-sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "12 samples, 12 pictures in 2 shards" in out
    assert "replace 100.0% (photos whose class has generated pictures), add 100%, unpaired 100%" in out
    assert "decoded 12 pictures, 0 of them broken or blank" in out
    assert Image.open(sheet).format == "PNG"


def test_every_option_of_pictures_and_shards(classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ["import", "classes", str(classes), str(out)]
    more = ["--size", "8", "--quality", "80", "--samples-per-shard", "3", "--key-prefix", "z-", "--limit", "5"]
    assert main([*common, *more, "--template", "one {label}", "--template", "two {label}", "--workers", "1"]) == 0
    index = ShardIndex.load(out)
    assert [info.samples for info in index.shards] == [3, 2]
    assert all(key.startswith("z-") for key in list(index.keys))
    assert index.sample(0).captions == (f"one {index.sample(0).label}", f"two {index.sample(0).label}")
    assert main(common) == 2
    assert main([*common, "--overwrite", "--keep-original", "--keep-order"]) == 0
    index = ShardIndex.load(out)
    assert list(index.keys) == ["a-0", "a-2", "a-4", "a-6", "b-1", "b-3", "b-5", "b-7"]
    assert index.read_bytes(0, int(index.offset[0]), int(index.size[0])) == (classes / "a" / "0.png").read_bytes()


def test_the_other_layouts(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("image,caption\n0.png,zero\n2.png,two\n")
    twins = tmp_path / "twins.tar"
    with tarfile.open(twins, "w") as archive:
        archive.add(classes / "b" / "1.png", "2.png")
    assert main(["import", "captions", str(classes / "a"), str(tmp_path / "1"), "--captions", str(table)]) == 0
    assert "left out: picture without caption: 2 (4.png, 6.png)" in capsys.readouterr().out
    assert (
        main(["import", "twins", str(classes / "a"), str(tmp_path / "2"), "--captions", str(table), "--twins",
              f"sd-1.4={twins}"]) == 0
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "2 samples, 3 pictures" in out
    assert "no twin by sd-1.4: 1 (0.png)" in out
    assert main(["inspect", str(tmp_path / "2")]) == 0
    assert "replace 50.0% (photos that have a twin)" in capsys.readouterr().out
    annotations = {"images": [{"id": 1, "file_name": "0.png"}], "annotations": [{"image_id": 1, "caption": "zero"}]}
    (tmp_path / "captions.json").write_text(json.dumps(annotations))
    coco = ["import", "coco", str(classes / "a"), str(tmp_path / "3"), "--annotations", str(tmp_path / "captions.json")]
    assert main(coco) == 0
    assert "1 samples, 1 pictures" in capsys.readouterr().out


def test_index_then_inspect_of_foreign_shards(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    (tmp_path / "x.txt").write_text("a caption")
    (tmp_path / "broken").write_bytes(b"no picture")
    with tarfile.open(folder / "00000.tar", "w") as archive:
        archive.add(classes / "a" / "0.png", "000.png")
        archive.add(tmp_path / "x.txt", "000.txt")
        archive.add(tmp_path / "broken", "001.jpg")
        archive.add(tmp_path / "x.txt", "001.txt")
        archive.add(classes / "a" / "2.png", "002.png")
    assert main(["inspect", str(folder)]) == 2
    assert f"has no index; run `bias-train shards index {folder}`" in capsys.readouterr().err
    assert main(["index", str(folder)]) == 2
    assert "--source real" in capsys.readouterr().err
    assert main(["index", str(folder), "--source", "real"]) == 0
    assert "left out: no json and no txt: 1" in capsys.readouterr().out
    assert main(["inspect", str(folder)]) == 0
    assert main(["inspect", str(folder), "--decode"]) == 1
    out = capsys.readouterr().out
    assert "decoded 2 pictures, 1 of them broken or blank" in out
    assert "00000.tar: 001: is no JPEG, PNG or WebP" in out
    assert "left out of the index: no json and no txt: 1" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import", "classes", "{tmp}/nowhere", "{tmp}/out"], "there is no such file or folder"),
        (["import", "classes", "{in}", "{tmp}/out", "--source", "SD"], "--source 'SD'"),
        (["import", "classes", "{in}", "{tmp}/out", "--size", "8", "--keep-original"], "exclude each other"),
        (["import", "classes", "{in}", "{tmp}/out", "--quality", "200"], "JPEG quality 200"),
        (["import", "classes", "{in}", "{tmp}/out", "--holdout", "2"], "--holdout 2"),
        (["import", "classes", "{in}", "{tmp}/out", "--split", "test"], "--split test"),
        (["import", "classes", "{in}", "{tmp}/out", "--limit", "0"], "--limit 0"),
        (["import", "classes", "{in}", "{tmp}/out", "--workers", "0"], "--workers 0"),
        (["import", "twins", "{in}", "{tmp}/out", "--twins", "sd"], "write NAME=PATH"),
        (["import", "twins", "{in}", "{tmp}/out", "--twins", "sd={in}", "--twins", "sd={in}"], "is given twice"),
        (["import", "twins", "{in}", "{tmp}/out", "--twins", "sd={in}", "--anchor", "real"], "--anchor"),
        (["index", "{tmp}/nowhere"], "there is no such folder"),
        (["index", "{in}"], "holds no shards"),
        (["inspect", "{tmp}/nowhere"], "there is no such shard set"),
    ],
)
def test_errors_are_one_line_and_code_two(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    filled = [text.replace("{tmp}", str(tmp_path)).replace("{in}", str(classes)) for text in arguments]
    assert main(filled) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith(f"bias-train shards {arguments[0]}: ")
    assert words in lines[0]
    assert not (tmp_path / "out").exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from bias_train.cli.shards import main\n"
        "try: main(['import', 'classes', '--help'])\n"
        "except SystemExit as leave: assert leave.code == 0\n"
        "print([name for name in ('torch', 'numpy', 'PIL', 'pyarrow', 'rich', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--keep-original" in done.stdout
