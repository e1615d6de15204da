"""Edited shards as questions: which rows are asked, what they search, and what is left out and counted."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from edited_shards import NAMES, caption, picture, scenes, write_edited

from bias_train.audit.object.edited_set import EditedSet, edited_set
from bias_train.audit.object.options import ObjectOptions
from bias_train.audit.object.run import audit_object
from bias_train.audit.object.table import leading
from bias_train.metrics.functional.object.questions import answers
from bias_train.stats import Bootstrap
from datamodules.errors import DataError
from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_edited(tmp_path_factory.mktemp("edited"), scenes())


def test_rows_are_what_they_say(shards: Path) -> None:
    asked = edited_set([str(shards)], pairs=[("dog", "frisbee")])
    questions, keys = asked.questions, asked.pictures.keys
    names = questions.categories
    i2t, t2i = questions.i2t, questions.t2i
    assert t2i is not None
    assert len(i2t.category) == sum(len(things) for things in scenes())
    for q in range(len(i2t.category)):
        thing = names[i2t.category[q]]
        scene = keys[i2t.original[q]]
        assert keys[i2t.removed[q]] == f"{scene}.no-{thing}"
        assert keys[i2t.control[q]] == f"{scene}.control-{thing}"
        things = scenes()[int(scene.removeprefix("scene-"))]
        assert {names[c] for c in np.flatnonzero(i2t.present[q])} == set(things)
    # Each caption stands in the gallery, also where two pictures have the same one.
    searched = [asked.texts[row] for row in i2t.gallery]
    assert sorted(searched) == sorted(text for things in scenes() for text in (caption(things), caption(things[:1])))
    assert len(asked.texts) == len(set(asked.texts))
    for row, text in enumerate(searched):
        assert {names[c] for c in np.flatnonzero(i2t.gallery_present[row])} == {n for n in names if f"a {n}" in text}
    # Captions that mention one object only ask nothing: the rest would be empty.
    for q in range(len(t2i.category)):
        thing = names[t2i.category[q]]
        before, after = asked.texts[t2i.original[q]], asked.texts[t2i.removed[q]]
        assert f"a {thing}" in before
        assert f"a {thing}" not in after
    assert len(t2i.category) == len(i2t.category)
    assert asked.counts["edited captions that mention no other object"] == len(scenes())
    assert questions.pairs == ((names.index("dog"), names.index("frisbee")),)
    assert asked.edits["dilation"] == [3.0, 3.0]
    assert asked.edits["inpainters"] == {"opencv telea": len(i2t.category)}


def test_pictures_are_read_as_they_lie(shards: Path) -> None:
    from datamodules.decode import decode_and_fit

    asked = edited_set([str(shards)])
    row = int(asked.questions.i2t.removed[0])
    key = asked.pictures.keys[row]
    scene, view = key.split(".")
    things = set(scenes()[int(scene.removeprefix("scene-"))]) - {view.removeprefix("no-")}
    place = asked.pictures.corpus.places(asked.pictures.picture[[row]])[0]
    found = decode_and_fit(place.read(), (32, 32), key).astype(int)
    assert np.abs(found - picture(things, paint=1)).mean() < 8


def test_ordinary_retrieval_asks_with_unedited_pairs(shards: Path) -> None:
    questions = edited_set([str(shards)]).questions
    assert len(questions.text) == 2 * len(scenes())
    assert len(questions.image) == len(scenes())
    assert set(questions.text_target) == set(questions.image_target)


def test_a_gallery_is_added_once(shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with ShardWriter(other) as writer:
        writer.write(Sample("scene-0", ("a photo of a boat",)), picture(set()))  # a picture that is there already
        writer.write(Sample("new-1", ("a boat on a lake",)), picture(set()))  # objects unknown
        listed = [{"category": "boat", "box": [0, 0, 4, 4]}, {"category": "zeppelin", "box": [0, 0, 4, 4]}]
        writer.write(Sample("new-2", ("two boats",), meta={"objects": listed}), picture(set()))
    alone, both = edited_set([str(shards)]), edited_set([str(shards)], [str(other)])
    assert both.counts["captions searched"] == alone.counts["captions searched"] + 2
    assert both.counts["pictures searched"] == alone.counts["pictures searched"] + 1
    assert both.counts["pictures without a list of objects"] == 1
    assert both.counts["annotated objects that the vocabulary does not have"] == 1
    assert both.counts["pictures of the gallery that the edited sets have too"] == 1
    assert both.counts["queries among captions"] == alone.counts["queries among captions"]
    assert len(both.questions.image) == len(alone.questions.image) + 2


def test_a_limit_takes_pictures_from_the_questions_only(shards: Path) -> None:
    whole, few = edited_set([str(shards)]), edited_set([str(shards)], limit=3, seed=1)
    assert few.counts["pictures asked with"] == 3
    assert few.counts["captions searched"] == whole.counts["captions searched"]
    again = edited_set([str(shards)], limit=3, seed=1)
    assert again.pictures.keys == few.pictures.keys


def test_what_cannot_be_asked_is_counted(tmp_path: Path) -> None:
    def sample(key: str, objects: list[str] | None, views: dict[str, View], captions: tuple[str, ...]) -> Sample:
        meta = {} if objects is None else {"objects": [{"category": name, "box": [0, 0, 1, 1]} for name in objects]}
        return Sample(key, captions, views=views, meta=meta)

    def removed(name: str, *captions: str) -> View:
        return View("real", captions, {"edit": "removed", "object": name})

    both = ("a dog and a cat",)
    with ShardWriter(tmp_path / "odd") as writer:
        for number, (objects, thing, after) in enumerate(
            [
                (["dog", "cat"], "dog", "a cat"),
                (["dog"], "dog", "a cat"),
                (["cat", "bed"], "dog", "a cat"),
                (["dog", "cat"], "griffin", "a cat"),
                (["dog", "cat"], "dog", "a puppy and a cat"),
                (["dog", "cat", "bed"], "bed", "the dog with a cat"),
            ]
        ):
            view = removed(thing, after)
            writer.write(sample(f"s{number}", objects, {"no-x": view}, both), picture(set()), {"no-x": picture(set())})
    asked = edited_set([str(tmp_path / "odd")])
    counted = {name: count for name, count in asked.counts.items() if name.startswith("edit")}
    assert counted == {
        "edits that leave no annotated object": 1,
        "edits of an object that is not annotated": 1,
        "edits of an object that the vocabulary does not have": 1,
        "edited captions that still mention the object": 1,
        "edited captions that did not mention the object": 1,
    }
    assert len(asked.questions.i2t.category) == 3
    assert asked.counts["queries with control"] == 0


def test_faults_are_told(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"griffin.*vocabulary"):
        edited_set([str(shards)], pairs=[("dog", "griffin")])
    with ShardWriter(tmp_path / "plain") as writer:
        writer.write(Sample("a", ("a dog",)), picture(set()))
    with pytest.raises(DataError, match="holds no picture from which an object was taken away"):
        edited_set([str(tmp_path / "plain")])
    view = View("real", ("a cat", "a bed"), {"edit": "removed", "object": "dog"})
    for folder, meta, message in (
        ("no-list", {}, "no list meta\\['objects'\\]"),
        ("uneven", {"objects": [{"category": name} for name in ("dog", "cat")]}, "2 captions for the anchor's 1"),
    ):
        with ShardWriter(tmp_path / folder) as writer:
            writer.write(Sample("a", ("a dog and a cat",), views={"v": view}, meta=meta), picture(set()),
                         {"v": picture(set())})  # fmt: skip
        with pytest.raises(DataError, match=message):
            edited_set([str(tmp_path / folder)])


def perfect(asked: EditedSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of a retriever that scores a caption by what it says that is there, less what it says that is not."""
    names = asked.questions.categories
    image = -torch.ones(len(asked.pictures), len(names))
    for row, key in enumerate(asked.pictures.keys):
        scene, _, view = key.partition(".")
        gone = view.removeprefix("no-") if view.startswith("no-") else ""
        for thing in PAIRED[int(scene.removeprefix("scene-"))]:
            image[row, names.index(thing)] = -1.0 if thing == gone else 1.0
    mentioned = [[float(f"a {name}" in told) for name in names] for told in asked.texts]
    text = torch.tensor(mentioned) + 1e-3  # "a photo of something" mentions nothing
    return torch.nn.functional.normalize(image, dim=1), torch.nn.functional.normalize(text, dim=1)


# Every two objects in either order, so that each object has a caption of its own.
PAIRED = [list(pair) for pair in permutations(NAMES, 2)]


def test_a_perfect_retriever_and_a_stubborn_one(tmp_path: Path) -> None:
    asked = edited_set([str(write_edited(tmp_path / "paired", PAIRED))])
    image, text = perfect(asked)
    options = ObjectOptions(ks=(1,), minimum=1, bootstrap=Bootstrap(50))
    outcome = audit_object(asked, (image, text), options)
    assert outcome.find("i2t_H_removed", 1).value == 0.0  # type: ignore[union-attr]
    assert outcome.find("i2t_H_original", 1).value == 1.0  # type: ignore[union-attr]
    assert outcome.find("i2t_DG_control_micro", 1).value == 0.0  # type: ignore[union-attr]
    assert outcome.find("i2t_ODmAP_V3_micro", 1).value == 1.0  # type: ignore[union-attr]
    # One that sees the unedited picture whatever was taken out: no gap, and what it recalls is what was there.
    i2t = asked.questions.i2t
    blind = image.clone()
    blind[torch.from_numpy(i2t.removed)] = image[torch.from_numpy(i2t.original)]
    stubborn = audit_object(asked, (blind, text), options, against=(image, text))
    assert stubborn.find("i2t_DG_micro", 1).value == 0.0  # type: ignore[union-attr]
    change = stubborn.find("i2t_H_removed_micro", 1, change=True)
    assert change is not None
    assert change.value == pytest.approx(stubborn.find("i2t_H_original_micro", 1).value)  # type: ignore[union-attr]
    assert change.low > 0
    assert stubborn.find("clean_t2i_R", 1, change=True).value == 0.0  # type: ignore[union-attr]
    codes = {warning.code for warning in outcome.warnings}
    assert {"few_pictures", "small_gallery", "left_out"} <= codes
    assert "no_control" not in codes


def test_a_mean_over_few_categories_does_not_lead(shards: Path) -> None:
    asked = edited_set([str(shards)])
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(len(rows), 8, generator=generator) for rows in (asked.pictures, asked.texts))
    for minimum, name, kept in ((1, "i2t_DG", 6), (5, "i2t_DG_micro", 3)):
        outcome = audit_object(asked, (image, text), ObjectOptions(ks=(3,), minimum=minimum, bootstrap=None))
        assert outcome.conventions["categories in the mean"]["i2t"] == kept
        assert leading(outcome, "i2t", "DG") == outcome.find(name, 3)


def test_clean_retrieval_is_that_of_the_retrieval_metric(shards: Path) -> None:
    from bias_train.metrics.functional.retrieval import retrieval

    asked = edited_set([str(shards)])
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(len(asked.pictures), 8, generator=generator)
    text = torch.randn(len(asked.texts), 8, generator=generator)
    questions = asked.questions
    rows = (questions.text, questions.image, questions.text_target, questions.image_target)
    texts, pictures, of_text, of_picture = (torch.from_numpy(part) for part in rows)
    bootstrap = Bootstrap(60)
    wanted = {f.key: f for f in retrieval(text[texts], image[pictures], of_text, of_picture, ks=(1, 5),
                                          bootstrap=bootstrap)}  # fmt: skip
    for figure in answers(questions, image, text, ks=(1,), clean_ks=(1, 5), bootstrap=bootstrap).figures():
        if figure.name.startswith("clean_"):
            other = wanted[figure.key.removeprefix("clean_")]
            assert (figure.value, figure.low, figure.high) == pytest.approx((other.value, other.low, other.high))
            assert figure.count == other.count
