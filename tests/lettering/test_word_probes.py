"""Sets of rendered words: a sample for each word and style, equal to the canvas to the pixel."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bias_train.cli.synthesize import main
from datamodules import DataError
from datamodules.index import ShardIndex
from datamodules.lettering.canvas import STYLES, render_word
from datamodules.overlaying.probes import write_probes
from datamodules.text_spans import PictureText

WORDS = ("cat", "null", "hot dog", "electroencephalographically")


def test_every_word_in_every_style(tmp_path: Path) -> None:
    index, report = write_probes(tmp_path / "words", WORDS)
    assert len(index) == len(WORDS) * len(STYLES)
    seen = set()
    for row in range(len(index)):
        sample = index.sample(row)
        about = sample.meta["rendered"]
        seen.add((about["word"], about["style"]))
        assert sample.captions == (about["word"],)
        assert sample.label == about["word"]
        assert not sample.is_real
        data = index.read_picture(int(index.shard[row]), *(int(c[row]) for c in (index.offset, index.size, index.crc)))
        wanted = render_word(about["word"], style=about["style"])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), wanted.image)
        assert about["overflow"] == wanted.overflow == (about["word"] == WORDS[3])
        text = PictureText.from_meta(sample.meta, "sample")
        assert text is not None
        assert text.spans[0].text == about["word"]
        assert text.spans[0].quad[0] == wanted.box[:2]
    assert seen == {(word, style) for word in WORDS for style in STYLES}
    assert len(set(index.group.tolist())) == len(WORDS)  # the styles of a word are no negatives of each other
    assert report["overflow"]["share"] == 1 / 4
    assert report["overflow"]["by_style"] == dict.fromkeys(STYLES, 0.25)
    assert report["overflow"]["words"] == [WORDS[3]]
    assert json.loads((tmp_path / "words" / "words.json").read_text()) == report
    _, fitted = write_probes(tmp_path / "fitted", WORDS, fit=True, styles=["black/white"])
    assert fitted["overflow"]["share"] == 0


def test_words_that_the_font_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'猫': no chosen font can write it"):
        write_probes(tmp_path / "refused", ("cat", "猫"))
    assert not list(tmp_path.glob("refused/*.tar"))
    index, report = write_probes(tmp_path / "left", ("cat", "猫"), leave_out=True)
    assert len(index) == 4
    assert report["left_out"] == {"number": 1, "words": ["猫"]}
    with pytest.raises(DataError, match="list of 1 words: the font dejavu-sans can write none of them"):
        write_probes(tmp_path / "empty", ("猫",), leave_out=True)
    with pytest.raises(DataError, match="list of 0 words"):
        write_probes(tmp_path / "empty", ())


def test_styles_that_there_are_not(tmp_path: Path) -> None:
    for styles in ([], ["pink/black"], ["white/black", "white/black"]):
        with pytest.raises(DataError, match="style"):
            write_probes(tmp_path / "words", WORDS, styles=styles)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text("cat\nelectroencephalographically\n猫\n", encoding="utf-8")
    command = ["words", str(tmp_path / "out"), "--list", str(tmp_path / "list.txt")]
    assert main(command) == 2
    assert "'猫'" in capsys.readouterr().err
    assert main([*command, "--leave-out", "--style", "gray/white"]) == 0
    said = capsys.readouterr()
    assert "2 words in 1 styles, 2 samples" in said.out
    assert "50.0% overflow" in said.out
    assert "left out: 1 words" in said.err
    assert len(ShardIndex.load(tmp_path / "out")) == 2
    assert main([*command, "--leave-out"]) == 2  # the folder holds shards
    assert "--overwrite" in capsys.readouterr().err
    assert main(["words", "--fonts"]) == 0
    assert "dejavu-sans\tsans" in capsys.readouterr().out
    assert main(["words"]) == 2
    assert "OUT" in capsys.readouterr().err
