from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.sample import Sample, SchemaVersionError, View, check_key

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))
META = st.dictionaries(
    st.text(max_size=5), st.integers() | st.lists(st.floats(allow_nan=False)) | st.none(), max_size=3
)
FREE = META.map(lambda meta: {name: value for name, value in meta.items() if name not in ("source", "captions")})
VIEWS = st.builds(View, NAMES, st.none() | st.lists(TEXTS, max_size=2).map(tuple), FREE)
SAMPLES = st.builds(
    Sample,
    st.from_regex(r"[A-Za-z0-9_-]{1,10}(/[A-Za-z0-9_-]{1,10})?", fullmatch=True),
    st.lists(TEXTS, max_size=3).map(tuple),
    NAMES,
    st.none() | TEXTS,
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(NAMES, VIEWS, max_size=3),
    META,
)


@given(SAMPLES)
def test_json_round_trip(sample: Sample) -> None:
    assert Sample.from_json(sample.key, json.loads(json.dumps(sample.to_json()))) == sample


def test_views_inherit_captions_unless_they_have_their_own() -> None:
    sample = Sample("k", ("a dog and a cat",), views={"sd": View("sd"), "no-cat": View("sd", ("a dog",))})
    assert sample.captions_of("sd") == sample.captions_of() == ("a dog and a cat",)
    assert sample.captions_of("no-cat") == ("a dog",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"captions": "a cat"}, "'k', field 'captions'"),
        ({"captions": [" "]}, "'k', field 'captions'"),
        ({"captions": None}, "field 'captions'"),
        ({"source": "SD 1.4"}, "for instance 'sd-1.4'"),
        ({"source": 3}, "field 'source'"),
        ({"label": ""}, "field 'label'"),
        ({"group": 4}, "field 'group'"),
        ({"views": ["sd"]}, "field 'views'"),
        ({"views": {"sd": {}}}, "view 'sd': field 'source' is missing"),
        ({"views": {"SD": {"source": "sd"}}}, "view 'SD'"),
        ({"meta": 1}, "field 'meta'"),
        ({"sorce": "real"}, "unknown field 'sorce'"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], words: str) -> None:
    obj = {"version": 1, "captions": ["a cat"], "source": "real"} | change
    with pytest.raises(DataError, match="sample 'k'") as error:
        Sample.from_json("k", obj)
    assert words in str(error.value)


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_version_is_refused(version: object) -> None:
    with pytest.raises(SchemaVersionError, match="reads version 1"):
        Sample.from_json("k", {"version": version, "captions": [], "source": "real"})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DataError, match="field 'source' is missing"):
        Sample.from_json("k", {"version": 1, "captions": []})


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a.b", ".a", "a\\b", "a\n", "a/", "./a"])
def test_keys_that_climb_or_would_be_cut_are_refused(key: str) -> None:
    with pytest.raises(DataError, match="key"):
        check_key(key)


@pytest.mark.parametrize("key", ["a", "a/b", "a.b/c", "Übung 1", "000000001"])
def test_keys_that_webdataset_keeps(key: str) -> None:
    from webdataset.tariterators import base_plus_ext

    assert base_plus_ext(f"{check_key(key)}.sd-1.4.jpg") == (key, "sd-1.4.jpg")
