"""Labelled people, words and prompts are embedded as each is alone, and only what has a group is taken for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bias_train.people.embed import embed_group_prompts, embed_people, embed_words
from datamodules.catalogue import Catalogue
from datamodules.decode import decode_and_fit
from datamodules.errors import DataError
from datamodules.groups import META
from datamodules.index import ShardIndex
from datamodules.reencode import ImageFormat
from datamodules.sample import Sample, View
from datamodules.taxonomy import Entry, load_group_prompts, load_taxonomy, word_prompts
from datamodules.world import write_people_world, write_world
from datamodules.writer import ShardWriter
from models import OpenClipRetriever

TINY = "configs/model/tiny32.json"


@pytest.fixture(scope="module")
def retriever() -> OpenClipRetriever:
    return OpenClipRetriever(config=TINY).eval()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_people_world(folder / "val", samples=11)
    return folder / "val"


def alone(retriever: OpenClipRetriever, folder: Path, key: str) -> torch.Tensor:
    catalogue = Catalogue.of([ShardIndex.load(folder)])
    picture = next(p for p in range(len(catalogue.picture_source)) if catalogue.name(p) == key)
    pixels = decode_and_fit(catalogue.read(picture), retriever.image_size, key)
    with torch.inference_mode():
        return retriever.encode_image(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]


def test_people_are_embedded_as_each_picture_is(retriever: OpenClipRetriever, shards: Path) -> None:
    found = embed_people(retriever, [str(shards)], batch_size=4)
    index = ShardIndex.load(shards)
    assert found.key == tuple(index.keys)
    assert found.attributes == ("coat", "hat")
    for row, key in enumerate(found.key):
        torch.testing.assert_close(found.image[row], alone(retriever, shards, key), rtol=0, atol=1e-5)
        for part in found.groupings:
            assert part.labels[part.code[row]] == index.sample(row).meta[META][part.name]


def test_a_limit_takes_some_of_the_same(retriever: OpenClipRetriever, shards: Path) -> None:
    every = embed_people(retriever, [str(shards)])
    some = embed_people(retriever, [str(shards)], limit=4)
    assert len(some) == 4
    rows = np.array([every.key.index(key) for key in some.key])
    assert np.all(np.diff(rows) > 0)
    torch.testing.assert_close(some.image, every.image[rows.tolist()], rtol=0, atol=1e-5)
    assert some.groupings[0].code.tolist() == every.groupings[0].code[rows].tolist()
    assert embed_people(retriever, [str(shards)], limit=4, seed=1).key != some.key


def write(folder: Path, metas: list[dict]) -> Path:
    rng = np.random.default_rng(0)
    with ShardWriter(folder, image_format=ImageFormat()) as writer:
        for number, meta in enumerate(metas):
            picture, view = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
            sample = Sample(f"p{number}", (), views={"sd": View("sd")}, meta=meta)
            writer.write(sample, picture, {"sd": view})
    return folder


def test_only_anchors_with_groups_are_people(retriever: OpenClipRetriever, shards: Path, tmp_path: Path) -> None:
    metas = [{META: {"coat": "red"}}, {}, {META: {"race": "Black", "coat": "yellow"}}, {"objects": []}]
    folder = write(tmp_path / "mixed", metas)
    found = embed_people(retriever, [str(folder), str(shards)])
    assert found.key[:2] == ("p0", "p2")
    assert len(found) == 2 + 11
    torch.testing.assert_close(found.image[1], alone(retriever, folder, "p2"), rtol=0, atol=1e-5)
    race = found.grouping("race")
    assert race.code.tolist() == [-1, 0] + [-1] * 11
    assert found.grouping("coat").labels == ("purple", "red", "yellow")


def test_shards_without_people_are_refused(retriever: OpenClipRetriever, tmp_path: Path) -> None:
    write_world(tmp_path / "things", samples=2)
    with pytest.raises(DataError, match=r"things: no sample says a group of people; .* shards import faces"):
        embed_people(retriever, [str(tmp_path / "things")])
    folder = write(tmp_path / "numbers", [{META: {"race": 3}}])
    with pytest.raises(DataError, match=r"sample 'p0': meta.groups is .* must hold names"):
        embed_people(retriever, [str(folder)])


def test_words_and_groups_are_embedded_as_they_are_asked_with(retriever: OpenClipRetriever, shards: Path) -> None:
    prompts = word_prompts(load_taxonomy(shards / "words.csv").entries)
    words = embed_words(retriever, prompts, batch_size=3)
    assert words.prompt == tuple(prompt.text for prompt in prompts)
    assert words.keys == tuple((prompt.category, prompt.word) for prompt in prompts)
    assert set(words.tier) == {"core"}
    for row in (0, 7, 19):
        with torch.inference_mode():
            single = retriever.encode_text(retriever.tokenize([words.prompt[row]]))[0]
        torch.testing.assert_close(words.text[row], single, rtol=0, atol=1e-5)
    doctor = Entry("occupation", "doctor", part_of_speech="noun")
    named = embed_group_prompts(retriever, "gender", ["Male", "Female"], words=[doctor])
    assert (named.group, named.prompt) == (
        ("Male", "Female"),
        ("A photo of a male doctor.", "A photo of a female doctor."),
    )
    own = load_group_prompts(shards / "group_prompts.json")
    coats = embed_group_prompts(retriever, "coat", ["yellow", "purple"], own=own)
    assert coats.codes(("purple", "yellow")).tolist() == [1, 1, 1, 0, 0, 0]
    assert coats.text.shape == (6, retriever.embed_dim)
    for nothing in (lambda: embed_words(retriever, []), lambda: embed_group_prompts(retriever, "gender", [])):
        with pytest.raises(DataError, match="there are no"):
            nothing()
