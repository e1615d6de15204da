"""Shards with words on their pictures as questions: which rows are asked, what is left out, and what an audit says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from written_shards import (
    SIDE,
    SIGNS,
    THINGS,
    WORDS,
    caption,
    lettered,
    picture,
    write_attacked,
    write_erased,
    write_misled,
    write_overlaid,
    write_signs,
)

from bias_train.audit.text.options import TextOptions
from bias_train.audit.text.rendering import Rendering, check_prompt, embed_rendered, limited
from bias_train.audit.text.run import audit_text
from bias_train.audit.text.text_set import TextSet, text_set
from bias_train.errors import RunError
from bias_train.stats import Bootstrap
from datamodules.decode import decode_and_fit
from datamodules.errors import DataError
from datamodules.lettering.canvas import STYLES, render_word
from datamodules.lettering.words import says
from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("written")
    write_overlaid(where / "overlaid")
    write_misled(where / "misled")
    write_erased(where / "erased")
    write_signs(where / "signs")
    write_attacked(where / "attacked")
    write_attacked(where / "bare", clean=False)
    return where


def asked_of(folder: Path, *names: str, **options: object) -> TextSet:
    return text_set([str(folder / name) for name in names], **options)  # type: ignore[arg-type]


def pixels_of(asked: TextSet, row: int) -> np.ndarray:
    place = asked.pictures.corpus.places(asked.pictures.picture[[row]])[0]
    return decode_and_fit(place.read(), (SIDE, SIDE), asked.pictures.keys[row]).astype(int)


def test_overlays_are_what_they_say(folder: Path) -> None:
    asked = asked_of(folder, "overlaid")
    over, keys = asked.questions.overlays, asked.pictures.keys
    assert over is not None
    assert len(over.clean) == 11
    assert asked.counts["overlays whose word a caption says"] == 1
    for n in range(len(over.clean)):
        scene = keys[over.clean[n]]
        number = int(scene.removeprefix("scene-"))
        assert keys[over.written[n]] == f"{scene}.overlay"
        assert asked.texts[over.query[n]] == f"a photo of a {WORDS[number % len(WORDS)]}"
        told = {asked.texts[c] for c in over.caption[over.caption_of == n]}
        assert told == {caption(number), f"a {THINGS[number % len(THINGS)]}"}
        other = asked.texts[over.other[n]].removeprefix("a photo of a ")
        assert other in WORDS
        assert other != WORDS[number % len(WORDS)]
        assert not says(told, other)
    for row, expected in ((over.clean[0], picture(0)), (over.written[0], lettered(picture(0), WORDS[0])[0])):
        assert np.abs(pixels_of(asked, int(row)) - expected).mean() < 8
    assert len(asked.texts) == len(set(asked.texts))
    assert asked.record["fonts of overlays"] == {"dejavu-sans": 11}
    # Ordinary pairs are all clean pictures, that of the left-out overlay among them.
    assert sorted(keys[row] for row in asked.questions.pairs.image) == sorted(f"scene-{n}" for n in range(12))
    assert (asked.counts["ordinary pictures"], asked.counts["ordinary captions"]) == (12, 24)
    bare = asked_of(folder, "overlaid", query="{word}")
    assert bare.questions.overlays is not None
    assert {bare.texts[row] for row in bare.questions.overlays.query} == set(WORDS)


def test_an_anchor_that_was_written_on_is_set_against_the_picture_before(folder: Path) -> None:
    asked = asked_of(folder, "misled")
    over, keys = asked.questions.overlays, asked.pictures.keys
    assert over is not None
    assert [keys[row] for row in over.written] == ["misled-100", "misled-102"]  # parroting is no wrong word
    assert [keys[row] for row in over.clean] == ["misled-100.clean", "misled-102.clean"]
    assert {keys[row] for row in asked.questions.pairs.image} == {f"misled-{n}.clean" for n in range(100, 104)}
    assert not any("with the word" in asked.texts[row] for row in asked.questions.pairs.text)


def test_a_picture_that_nobody_kept_is_not_made_up(tmp_path: Path) -> None:
    """An overlay on an anchor on which something stood already: the anchor is not the picture without writing."""
    drawn, text, _ = lettered(picture(0), WORDS[0])
    over = View("real", None, {"edit": "overlay", "word": WORDS[1], "text": text})
    kept = View("real", None, {"edit": "clean"})
    written = {"written": {"kind": "parroting", "word": "dog"}}
    with ShardWriter(tmp_path / "set") as writer:
        writer.write(Sample("lost", ("a dog",), views={"overlay": over}, meta=written), drawn, {"overlay": drawn})
        views = {"overlay": over, "clean": kept}
        pictures = {"overlay": drawn, "clean": picture(0)}
        writer.write(Sample("kept", ("a dog",), views=views, meta=written), drawn, pictures)
        misled = {"written": {"kind": "misleading", "word": WORDS[2]}}
        writer.write(Sample("bare", ("a cat",), meta=misled), drawn)
    asked = asked_of(tmp_path, "set")
    over_set = asked.questions.overlays
    assert over_set is not None
    assert [asked.pictures.keys[row] for row in over_set.clean] == ["kept.clean"]
    assert asked.counts["overlays without the picture before"] == 2


def test_a_world_of_writing_can_be_asked(tmp_path: Path) -> None:
    from datamodules.world.text import WorldText, write_text_world

    write_text_world(tmp_path / "val", samples=24, text=WorldText(0.0, 0.0, 0.0), overlays=True, size=32)
    write_text_world(tmp_path / "signs", samples=12, text=WorldText(0.0, 0.0, 1.0, reading=True), size=32)
    asked = asked_of(tmp_path, "val", reading=[str(tmp_path / "signs")])
    assert asked.counts["overlaid pictures"] == 24
    assert asked.counts["reading pictures"] == 12
    assert 1 < asked.counts["reading labels"] <= 12


def test_erasures_are_what_they_say(folder: Path) -> None:
    asked = asked_of(folder, "erased")
    keys = asked.pictures.keys
    found = dict(asked.questions.erasures)
    numbers = [n for n in range(200, 208) if n % 3]
    assert [keys[row] for row in found["RSA"].raw] == [f"erased-{n}" for n in numbers]
    assert [keys[row] for row in found["RSA"].erased] == [f"erased-{n}.erased" for n in numbers]
    assert [keys[row] for row in found["RSA"].control] == [f"erased-{n}.control-erased" for n in numbers]
    assert [keys[row] for row in found["RSC"].erased] == [f"erased-{n}.erased-caption" for n in numbers if n % 2 == 0]
    # Where nothing was found, or none of it in a caption, the score is 0 by definition.
    assert (found["RSA"].without_text, found["RSC"].without_text) == (8 - len(numbers), 8 - len(found["RSC"].raw))
    assert asked.record["text found by"] == {"rapidocr 1.4": 8}


def test_reading_is_by_label_where_there_are_labels(folder: Path) -> None:
    asked = asked_of(folder, "overlaid", reading=[str(folder / "signs")])
    reading = asked.questions.reading
    assert reading is not None
    assert len(set(reading.image_target)) == len(SIGNS)
    for row, target in zip(reading.text, reading.text_target, strict=True):
        number = int(asked.pictures.keys[reading.image[list(reading.image_target).index(target)]].removeprefix("sign-"))
        assert asked.texts[row] == f"A sign that says {SIGNS[number % len(SIGNS)]}."
    assert asked.counts["reading labels"] == len(SIGNS)
    assert "label" in asked.record["reading"]
    # Without labels a caption is answered by its own picture.
    own = asked_of(folder, "overlaid", reading=[str(folder / "erased")]).questions.reading
    assert own is not None
    assert len(set(own.image_target)) == 8


def test_without_labels_equal_captions_are_one_thing_to_read(folder: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "signs") as writer:
        for n in range(6):
            writer.write(Sample(f"sign-{n}", (SIGNS[n % 3],)), picture(n))
    asked = asked_of(folder, "overlaid", reading=[str(tmp_path / "signs")])
    reading = asked.questions.reading
    assert reading is not None
    assert asked.counts["reading labels"] == 3
    for row, target in zip(reading.text, reading.text_target, strict=True):
        answers = reading.image[reading.image_target == target]
        numbers = [int(asked.pictures.keys[one].removeprefix("sign-")) for one in answers]
        assert [SIGNS[number % 3] for number in numbers] == [asked.texts[row]] * 2


def test_no_other_word_where_captions_say_all(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set") as writer:
        for n, told in enumerate(("a thing", f"two {WORDS[0]}s")):
            drawn, text, _ = lettered(picture(n), WORDS[n])
            over = View("real", None, {"edit": "overlay", "word": WORDS[n], "text": text})
            writer.write(Sample(f"scene-{n}", (told,), views={"overlay": over}), picture(n), {"overlay": drawn})
    asked = asked_of(tmp_path, "set", query="{word}")
    over_set = asked.questions.overlays
    assert over_set is not None
    assert [asked.texts[row] if row >= 0 else None for row in over_set.other] == [WORDS[1], None]


def test_attacks_are_what_they_say(folder: Path) -> None:
    asked = asked_of(folder, "overlaid", attack=[str(folder / "attacked")])
    attacks, keys = asked.questions.attacks, asked.pictures.keys
    assert attacks is not None
    classes = [asked.texts[row] for row in attacks.prompt]
    assert classes == [f"a photo of a {name}" for name in sorted(THINGS)]  # DOG is dog
    for n in range(len(attacks.attacked)):
        number = int(keys[attacks.attacked[n]].removeprefix("attacked-"))
        assert classes[attacks.label[n]] == f"a photo of a {THINGS[number % 6]}"
        assert classes[attacks.word[n]] == f"a photo of a {THINGS[(number + 1) % 6]}"
        assert (attacks.clean[n] >= 0) == (number % 2 == 0)
        if attacks.clean[n] >= 0:
            assert keys[attacks.clean[n]] == f"attacked-{number}.clean"
    assert asked.counts["attack pictures without a label or a word"] == 1
    assert asked.counts["attack pictures with their own label written"] == 1


def test_a_limit_takes_so_many_of_each(folder: Path) -> None:
    asked = asked_of(folder, "overlaid", "erased", reading=[str(folder / "signs")], limit=5, seed=2)
    assert (asked.counts["ordinary pictures"], asked.counts["reading pictures"]) == (5, 5)
    assert asked_of(folder, "overlaid", "erased", limit=5, seed=2).pictures.keys == asked.pictures.keys[:-5]


def test_faults_are_told(folder: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "plain") as writer:
        writer.write(Sample("a", ("a dog",)), picture(0))
    with ShardWriter(tmp_path / "wordless") as writer:
        view = View("real", None, {"edit": "overlay"})
        writer.write(Sample("a", ("a dog",), views={"overlay": view}), picture(0), {"overlay": picture(1)})
    with ShardWriter(tmp_path / "silent") as writer:
        writer.write(Sample("a", ()), picture(0))
    plain = str(tmp_path / "plain")
    with pytest.raises(DataError, match="holds no picture with a wrong word and none with text removed"):
        text_set([plain])
    with pytest.raises(DataError, match=r"sample 'a', view 'overlay': an overlay must say its word"):
        asked_of(tmp_path, "wordless")
    with pytest.raises(DataError, match="holds no picture with captions, as reading pairs"):
        text_set(pairs=[plain], reading=[str(tmp_path / "silent")])
    with pytest.raises(DataError, match="holds no labelled picture with a wrong word"):
        text_set(pairs=[plain], attack=[plain])
    with pytest.raises(DataError, match="no pictures with captions were given"):
        text_set()
    for wrong in ("a photo", "a {thing}", "a {word} {}", "{word"):
        with pytest.raises(RunError, match=r"query: .*has no place for the word"):
            text_set(pairs=[plain], query=wrong)


class TestRendering:
    def test_rows_stand_style_by_style(self) -> None:
        rendering = Rendering(
            ("cat", "stop", "cat"), styles=("white/black", "black/white"), size=64, prompt="the {word}"
        )
        assert (rendering.words, len(rendering), rendering.texts) == (("cat", "stop"), 4, ("the cat", "the stop"))
        drawn = rendering.pictures(np.array([1, 2]), (64, 64))
        for found, word, style in ((drawn[0], "stop", "white/black"), (drawn[1], "cat", "black/white")):
            wanted = render_word(word, size=64, style=style).image
            np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), wanted)
        assert rendering.pictures(np.array([0]), (32, 32)).shape == (1, 3, 32, 32)

    def test_ranks_draw_each_picture_once(self) -> None:
        rendering = Rendering(tuple("abcdefg"), styles=tuple(STYLES))
        rows = [np.concatenate(list(rendering.batches(4, rank, 3))) for rank in range(3)]
        assert sorted(np.concatenate(rows).tolist()) == list(range(28))

    def test_long_words_overflow_and_are_counted(self) -> None:
        words = ("cat", "dog", "incomprehensibilities", "counterrevolutionaries")
        assert Rendering(words).overflow == 0.5
        assert Rendering(words, fit=True).overflow == 0.0
        record = Rendering(words).record()
        assert record["overflow share"] == 0.5
        assert record["canvas"] == "224 px, letters of 32 px, long words cut off"
        assert record["sha256"] == hashlib.sha256("\n".join(words).encode()).hexdigest()

    def test_where_words_stand_is_drawn_and_told(self) -> None:
        rendering = Rendering(("cat", "stop"), styles=("white/black",), y=0.2)
        for drawn, word in zip(rendering.pictures(np.arange(2), (224, 224)), rendering.words, strict=True):
            np.testing.assert_array_equal(drawn.permute(1, 2, 0).numpy(), render_word(word, y=0.2).image)
            rows = np.flatnonzero((drawn[0] < 128).any(dim=1).numpy())
            assert abs((rows.min() + rows.max() + 1) / 2 - 0.2 * 224) <= 1
        assert rendering.record()["canvas"] == "224 px, letters of 32 px, long words cut off, at 0.2 of the height"
        assert "of the height" not in Rendering(("cat", "stop"), y=0.5).record()["canvas"]
        with pytest.raises(DataError, match=r"y of 2: is a share of the canvas's height"):
            Rendering(("cat", "stop"), y=2).pictures(np.arange(1), (32, 32))

    def test_what_a_font_cannot_write_is_left_out(self) -> None:
        rendering = Rendering(("cat", "猫", "null", "nan"))
        assert rendering.words == ("cat", "null", "nan")  # null and nan are words
        assert rendering.left_out == ("猫",)

    def test_faults(self) -> None:
        with pytest.raises(RunError, match="of 2 words the font dejavu-sans can write 1"):
            Rendering(("猫", "cat"))
        with pytest.raises(RunError, match="styles: 'pink/black' is none"):
            Rendering(("a", "b"), styles=("pink/black",))
        with pytest.raises(RunError, match="word_prompt"):
            Rendering(("a", "b"), prompt="word")
        check_prompt("{word}", "query")

    def test_a_limited_list_keeps_its_spread(self) -> None:
        words = [f"w{n}" for n in range(10)]
        assert limited(words, 4) == ("w0", "w3", "w6", "w9")
        assert limited([*words, "w0"], None) == tuple(words)


def perfect(asked: TextSet, *, reads: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of a retriever that knows every picture and, if it reads, what is written on it, which then is all."""
    names = sorted({*asked.pictures.keys, *THINGS, *WORDS, *SIGNS})
    place = {name: n for n, name in enumerate(names)}
    # A word of its own dimension, whether it is written, rendered or asked for.
    image = torch.zeros(len(asked.pictures) + len(asked.rendering or ()), len(names))
    questions = asked.questions
    for row, key in enumerate(asked.pictures.keys):
        image[row, place[key.partition(".")[0]]] = 1.0
    over = questions.overlays
    assert over is not None
    text = torch.full((len(asked.texts), len(names)), 1e-4)
    for row, told in enumerate(asked.texts):
        for word in (*WORDS, *SIGNS):
            text[row, place[word]] += float(word in told)
    for row, target in zip(questions.pairs.text, questions.pairs.text_target, strict=True):
        at = list(questions.pairs.image_target).index(target)
        text[row, place[asked.pictures.keys[questions.pairs.image[at]]]] += 1.0
    if reads:
        for row, query in zip(over.written, over.query, strict=True):
            image[row] = 2 * torch.nn.functional.normalize(text[query], dim=0)
    if questions.words is not None:
        for style in questions.words.rendered:
            for row, word in zip(style, questions.words.word, strict=True):
                image[row] = text[word] if reads else torch.ones(len(names))
    return torch.nn.functional.normalize(image, dim=1), torch.nn.functional.normalize(text, dim=1)


def test_a_reader_and_a_blind_retriever(folder: Path) -> None:
    asked = asked_of(folder, "overlaid", rendering=Rendering(WORDS, styles=("white/black",)))
    options = TextOptions(ks=(1,), bootstrap=Bootstrap(60))
    reader, blind = (perfect(asked, reads=reads) for reads in (True, False))
    outcome = audit_text(asked, reader, options, against=blind)

    def value(name: str, k: int | None = None) -> float:
        figure = outcome.find(name, k)
        assert figure is not None, name
        return figure.value

    assert value("win_share") == 1.0
    assert value("win_share_clean") < 0.5
    assert value("overlay_i2t_R", 1) < 0.5 < value("overlay_clean_i2t_R", 1)
    assert value("rendered_t2i_R", 1) == 1.0
    assert value("NS") > 1.0
    change = outcome.find("win_share", change=True)
    assert change is not None
    assert change.low > 0
    assert not any(figure.name.endswith("_floor") for figure in outcome.changes)
    told = {warning.code for warning in outcome.warnings}
    assert {"no_reading", "sync_gameable", "few_words", "prompt", "few_pictures", "left_out"} <= told

    other = audit_text(asked, blind, options)
    for name, k, expected in (("NS", None, 0.0), ("overlay_t2i_drop", 1, 0.0), ("rendered_t2i_R", 1, 0.25)):
        figure = other.find(name, k)
        assert figure is not None
        assert figure.value == pytest.approx(expected, abs=1e-5), name


def test_a_sync_score_that_was_gamed_is_called_so(folder: Path) -> None:
    asked = asked_of(folder, "overlaid", rendering=Rendering(WORDS, styles=("white/black",)))
    image, text = perfect(asked, reads=True)
    assert asked.questions.words is not None
    pushed = image.clone()
    rows = torch.from_numpy(asked.questions.words.rendered[0])
    pushed[rows] -= text[torch.from_numpy(asked.questions.words.word)].mean(dim=0) * 3
    codes = {w.code for w in audit_text(asked, (pushed, text), against=(image, text)).warnings}
    assert "sync_gamed" in codes
    assert "sync_gameable" not in codes


def test_an_erased_picture_stands_in_for_one_without_the_word(folder: Path, tmp_path: Path) -> None:
    erased = write_attacked(tmp_path / "erased", edit="erased")
    asked = text_set(pairs=[str(folder / "overlaid")], attack=[str(erased)])
    attacks, keys = asked.questions.attacks, asked.pictures.keys
    assert attacks is not None
    clean = [keys[row] for row in attacks.clean if row >= 0]
    assert clean == [f"attacked-{number}.erased" for number in range(400, 409, 2)]
    assert asked.counts["attacked pictures compared with an erased one"] == len(clean)


def test_attacks_without_clean_pictures_are_said_to_be(folder: Path) -> None:
    asked = text_set(pairs=[str(folder / "overlaid")], attack=[str(folder / "bare")])
    assert asked.questions.attacks is not None
    generator = torch.Generator().manual_seed(0)
    vectors = tuple(torch.randn(len(side), 4, generator=generator) for side in (asked.pictures, asked.texts))
    outcome = audit_text(asked, vectors, TextOptions(bootstrap=None))  # type: ignore[arg-type]
    assert "no_clean" in {warning.code for warning in outcome.warnings}
    assert outcome.find("attack_accuracy_clean") is None
    assert outcome.find("sync") is None  # no words were asked
    assert np.isnan(outcome.find("attack_accuracy").low)  # type: ignore[union-attr]


def test_vectors_that_cannot_be_measured(folder: Path) -> None:
    asked = asked_of(folder, "overlaid")
    with pytest.raises(RunError, match="is asked for"):
        audit_text(asked, (torch.eye(3), torch.eye(3)))
    with pytest.raises(RunError, match="ks holds nothing"):
        TextOptions(ks=())
    with pytest.raises(RunError, match="ks holds 0; a cut-off is at least 1"):
        TextOptions(ks=(0,))


def test_rendered_words_are_embedded_in_their_rows() -> None:
    class Mean(torch.nn.Module):
        image_size = (8, 8)

        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().mean(dim=(2, 3))

    rendering = Rendering(("cat", "dog", "sun"), styles=("white/black", "black/white"))
    found = embed_rendered(Mean(), rendering, batch_size=4)  # type: ignore[arg-type]
    assert found.shape == (6, 3)
    assert bool((found[:3] > 200).all())
    assert bool((found[3:] < 60).all())
