from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, pixels, write_tar, write_tree
from PIL import Image

from datamodules.errors import DataError
from datamodules.hashing import string_id
from datamodules.importers import (
    Collection,
    attach_twins,
    hold_out,
    open_tree,
    read_captions,
    read_classes,
    read_coco,
    read_scenes,
    read_twins,
    write_collection,
)
from datamodules.index import ShardIndex
from datamodules.objects.masks import decode_rle
from datamodules.reencode import ImageFormat

Files = dict[str, bytes]


@pytest.fixture(params=["folder", "tar"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Files], Path]:
    """Puts files into a folder or into a tar: an importer must not know the difference."""

    def put(files: Files) -> Path:
        if request.param == "folder":
            return write_tree(tmp_path / "input", files)
        return write_tar(tmp_path / "input.tar", files.items())

    return put


def found(collection: Collection) -> dict[str, tuple[str, ...]]:
    return {record.sample.key: record.sample.captions for record in collection.records}


def picture(index: ShardIndex, row: int, view: int = 0) -> np.ndarray:
    at = int(index.view_start[row]) + view
    data = index.read_bytes(int(index.shard[row]), int(index.offset[at]), int(index.size[at]))
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


# classes


def test_classes_with_splits(place: Callable[[Files], Path], tmp_path: Path) -> None:
    folders = [f"data/{split}/{label}" for split in ("train", "test") for label in ("cat", "fire_truck")]
    files = {f"{folder}/{i:02d}.jpg": jpeg(i) for folder in folders for i in range(3)}
    files |= {"data/train/.hidden/x.jpg": b"", "data/readme.md": b""}
    collection = read_classes(open_tree(place(files)), source="sd-1.4", templates=["a {label}", "the {label}"])
    assert collection.splits == ["train", "test"]
    assert not collection.problems
    indexes = write_collection(collection, tmp_path / "out", samples_per_shard=4)
    assert set(indexes) == {"train", "test"}
    index = ShardIndex.load(tmp_path / "out" / "train", verify=True)
    assert len(index.shards) == 2
    assert index.labels == ("cat", "fire truck")
    assert index.sources == ("real", "sd-1.4")
    assert (index.view_source == 1).all()
    assert sorted(index.keys) == sorted(f"sd-1-4-train-{c}-{i:02d}" for c in ("cat", "fire_truck") for i in range(3))
    sample = index.sample(list(index.keys).index("sd-1-4-train-fire_truck-01"))
    assert (sample.captions, sample.label) == (("a fire truck", "the fire truck"), "fire truck")
    assert np.abs(picture(index, list(index.keys).index(sample.key)) - pixels(1)).mean() < 4


def test_classes_are_found_below_what_all_share(tmp_path: Path) -> None:
    for number, (names, labels) in enumerate(
        [
            (["cat/1.jpg", "cat/2.jpg"], ["cat", "cat"]),
            (["cat/1.jpg", "dog/2.jpg"], ["cat", "dog"]),
            (["a/b/cat/1.jpg", "a/b/dog/2.jpg"], ["cat", "dog"]),
            (["cat/tabby/1.jpg", "dog/pug/2.jpg"], ["cat", "dog"]),
            (["train/cat/1.jpg", "train/dog/2.jpg"], ["cat", "dog"]),
            (["train/1.jpg", "test/2.jpg"], ["test", "train"]),
        ]
    ):
        tree = open_tree(write_tree(tmp_path / str(number), {name: jpeg(0) for name in names}))
        assert sorted(str(record.sample.label) for record in read_classes(tree).records) == labels


def test_a_tar_per_class(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        write_tar(tmp_path / "in" / f"{label}.tar", [(f"{i}.jpg", jpeg(i)) for i in range(2)])
    collection = read_classes(open_tree(tmp_path / "in"))
    assert sorted(found(collection).values()) == [("a photo of a cat",)] * 2 + [("a photo of a dog",)] * 2
    index = write_collection(collection, tmp_path / "out")[""]
    assert np.abs(picture(index, list(index.keys).index("dog-1")) - pixels(1)).mean() < 4


def test_photos_and_generated_pictures_of_equal_names_can_be_joined(tmp_path: Path) -> None:
    tree = open_tree(write_tree(tmp_path / "in", {"cat/1.jpg": jpeg(0), "dog/1.jpg": jpeg(1)}))
    for source in ("real", "sdxl"):
        write_collection(read_classes(tree, source=source), tmp_path / source)
    index = ShardIndex.load([tmp_path / "real", tmp_path / "sdxl"])
    assert len(index) == len(set(index.keys)) == len(set(index.group.tolist())) == 4


def test_names_that_clean_to_the_same_key_are_kept_apart(tmp_path: Path) -> None:
    files = {name: jpeg(i) for i, name in enumerate(["c/a b.jpg", "c/a.b.jpg", "c/a-b.jpg", "c/a-b.png"])}
    index = write_collection(read_classes(open_tree(write_tree(tmp_path / "in", files))), tmp_path / "out")[""]
    assert len(set(index.keys)) == 4


def test_classes_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures in class folders"):
        read_classes(open_tree(write_tree(tmp_path / "flat", {"1.jpg": jpeg(0)})))
    collection = read_classes(open_tree(write_tree(tmp_path / "mixed", {"1.jpg": jpeg(0), "cat/2.jpg": jpeg(0)})))
    assert collection.problems.counts == {"picture outside of a class folder": 1}
    with pytest.raises(DataError, match="--template 'a photo'"):
        read_classes(open_tree(tmp_path / "mixed"), templates=["a photo"])
    with pytest.raises(DataError, match="--source 'SD 1'"):
        read_classes(open_tree(tmp_path / "mixed"), source="SD 1")


# captions

PHOTOS: Files = {"images/a.jpg": jpeg(0), "images/b.png": jpeg(1), "images/c.jpg": jpeg(2)}
WANTED = {"images-a": ("One, two.", "Three"), "images-b": ("Four",)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", 'image,caption\na.jpg,"One, two."\na.jpg,Three\nb.png, Four \n'),
        ("captions.csv", '\ufefffilename;text\r\nimages/a.jpg;One, two.\r\na;Three\r\nb;Four\r\n'),
        ("results.csv", "image_name| comment_number| comment\na.jpg| 0| One, two.\na.jpg| 1| Three\nb.png| 0| Four\n"),
        ("captions.tsv", "file_name\tcaption\na.jpg\tOne,  two.\na.jpg\tThree\na.jpg\tThree\nb.png\tFour\n"),
        ("token.txt", "a.jpg#0\tOne, two.\na.jpg#1\tThree\nb.png#0\tFour\n"),
        ("c.json", json.dumps({"a.jpg": ["One, two.", "Three"], "b": "Four"})),
        ("c.json", json.dumps([{"image": "a", "captions": ["One, two.", "Three"]}, {"image": "b", "caption": "Four"}])),
        ("c.jsonl", '{"file_name": "a.jpg", "text": "One, two."}\n\n{"file_name": "./images/a.jpg", "text": "Three"}\n'
         '{"file_name": "b.png", "text": "Four"}\n'),
    ],
)  # fmt: skip
def test_tables_of_captions(place: Callable[[Files], Path], name: str, text: str) -> None:
    tree = open_tree(place(PHOTOS | {name: text.encode()}))
    collection = read_captions(tree, name if name.endswith(".txt") else None)
    assert found(collection) == WANTED
    assert collection.problems.counts == {"picture without caption": 1}


def test_captions_bring_splits_and_classes(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,caption,split,label\na.jpg,x,train,cat\nb.png,y,test,\nnowhere.jpg,z,test,\n")
    collection = read_captions(open_tree(write_tree(tmp_path / "in", PHOTOS)), table)
    assert [(r.split, r.sample.label) for r in collection.records] == [("train", "cat"), ("test", None)]
    assert collection.problems.counts == {"caption without picture": 1, "picture without caption": 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "picture,caption\n", "no column or field for the picture"),
        ("a.csv", "image,words\na.jpg,x\n", "no column or field for the caption"),
        ("a.csv", "image,caption\nz.jpg,x\n", "none of its 1 rows names a picture"),
        ("a.json", "{", "is no JSON"),
        ("a.json", '"x"', "must hold a list"),
        ("a.json", '[{"image": 3, "caption": "x"}]', "entry 0: the picture's name is 3"),
        ("a.json", '{"a.jpg": [3]}', "captions must be a string"),
        ("a.json", '{"images": [], "annotations": []}', "layout coco"),
        ("a.jsonl", '{"image": "a.jpg", "caption": "x"}\n{', "line 2: is no JSON"),
        ("a.csv", b"image,caption\na.jpg,\xff\n", "is not UTF-8"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, name: str, text: str | bytes, words: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words) as error:
        read_captions(open_tree(write_tree(tmp_path / "in", PHOTOS)), tmp_path / name)
    assert name in str(error.value)


def test_a_table_must_be_one(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "in", PHOTOS)
    with pytest.raises(DataError, match=r"no table of captions; name one with --captions"):
        read_captions(open_tree(tree))
    write_tree(tree, {"x.csv": b"", "y.csv": b""})
    with pytest.raises(DataError, match=r"several tables"):
        read_captions(open_tree(tree))
    with pytest.raises(DataError, match=r"--captions z.csv: there is no such file"):
        read_captions(open_tree(tree), "z.csv")


# COCO


def coco(width: int = 40, height: int = 20) -> Files:
    image = {"id": 7, "file_name": "000007.jpg", "width": width, "height": height}
    captions = {
        "images": [image, {"id": 8, "file_name": "gone.jpg", "width": 1, "height": 1}],
        "annotations": [{"image_id": 7, "caption": " A  cat.\n"}, {"image_id": 7, "caption": "Two"}],
    }
    instances = {
        "images": [image],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "hat"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [10, 0, 20, 20], "iscrowd": 0,
             "segmentation": [[10, 0, 30, 0, 30, 20]]},
            {"image_id": 7, "category_id": 4, "bbox": [0, 0, 5, 5], "segmentation": {"counts": []}, "iscrowd": 1},
        ],
    }  # fmt: skip
    return {
        "train/000007.jpg": jpeg(0, height, width),
        "annotations/captions_train.json": json.dumps(captions).encode(),
        "annotations/instances_train.json": json.dumps(instances).encode(),
    }


def test_coco(place: Callable[[Files], Path]) -> None:
    collection = read_coco(open_tree(place(coco())))
    assert found(collection) == {"000007": ("A cat.", "Two")}
    assert collection.problems.counts == {"annotation without picture": 1}
    assert collection.records[0].sample.meta == {
        "image_id": 7,
        "objects": [
            {"category": "cat", "box": [10, 0, 20, 20], "crowd": False, "polygons": [[10, 0, 30, 0, 30, 20]]},
            {"category": "hat", "box": [0, 0, 5, 5], "crowd": True},
        ],
    }


def test_coco_boxes_follow_the_written_pixels(tmp_path: Path) -> None:
    tree = open_tree(write_tree(tmp_path / "in", coco()))
    image_format = ImageFormat(size=10)
    collection = read_coco(tree, image_format=image_format)
    index = write_collection(collection, tmp_path / "out", image_format=image_format)[""]
    assert picture(index, 0).shape == (10, 10, 3)
    # Halved to 20 x 10, then 5 columns cut at either side: the cat fills the square, the hat is gone.
    assert index.sample(0).meta["objects"] == [
        {"category": "cat", "box": [0, 0, 10, 10], "crowd": False, "polygons": [[0, 0, 10, 0, 10, 10]]}
    ]


def test_coco_run_lengths_follow_the_written_pixels(tmp_path: Path) -> None:
    files = coco()
    instances = json.loads(files["annotations/instances_train.json"])
    whole = np.zeros((20, 40), dtype=bool)
    whole[4:12, 10:30] = True
    counts = [10 * 20 + 4, *[8, 12] * 19, 8, 8 + 10 * 20]  # column by column
    instances["annotations"][1] |= {"segmentation": {"size": [20, 40], "counts": counts}, "bbox": [10, 4, 20, 8]}
    files["annotations/instances_train.json"] = json.dumps(instances).encode()
    tree = open_tree(write_tree(tmp_path / "in", files))
    small = np.zeros((10, 10), dtype=bool)
    small[2:6] = True  # halved, then cut to the middle: rows 4 to 12 become 2 to 6, columns 10 to 30 are all of it
    for image_format, expected in ((None, whole), (ImageFormat(size=10), small)):
        crowd = read_coco(tree, image_format=image_format).records[0].sample.meta["objects"][1]
        assert crowd["crowd"] is True
        assert np.array_equal(decode_rle(crowd["rle"]), expected)
    instances["annotations"][1]["segmentation"]["counts"] = [1, 2]
    files["annotations/instances_train.json"] = json.dumps(instances).encode()
    with pytest.raises(DataError, match=r"000007\.jpg: a run-length mask"):
        read_coco(open_tree(write_tree(tmp_path / "bad", files)))


def test_karpathy(tmp_path: Path) -> None:
    images = [
        {"filename": f"{i}.jpg", "filepath": "val2014", "cocoid": i, "split": split,
         "sentences": [{"raw": f"Caption {i} ."}, {"tokens": ["more", "words"]}]}
        for i, split in enumerate(["train", "restval", "val", "test"])
    ]  # fmt: skip
    files = {f"val2014/{i}.jpg": jpeg(i) for i in range(4)}
    files["dataset_coco.json"] = json.dumps({"images": images, "dataset": "coco"}).encode()
    collection = read_coco(open_tree(write_tree(tmp_path / "in", files)))
    assert [record.split for record in collection.records] == ["train", "train", "val", "test"]
    assert collection.records[3].sample.captions == ("Caption 3 .", "more words")
    assert collection.splits == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no list 'images'"),
        ('{"images": []}', "no list 'images'"),
        ('{"images": [{"id": 1}], "annotations": []}', "lacks what COCO's format has"),
        ('{"images": [{"id": 1, "file_name": "z.jpg"}], "annotations": [{"image_id": 1, "bbox": []}]}', "--instances"),
        ('{"images": [{"id": 1, "file_name": "z.jpg"}], "annotations": []}', "none of its 1 pictures"),
    ],
)
def test_coco_files_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_coco(open_tree(write_tree(tmp_path / "in", PHOTOS)), tmp_path / "captions.json")


# twins


def test_twins_beside_photos(place: Callable[[Files], Path], tmp_path: Path) -> None:
    photos = open_tree(place(PHOTOS | {"captions.csv": b"image,caption\na.jpg,x\nb.png,y\nc.jpg,z\n"}))
    xl = open_tree(write_tree(tmp_path / "xl", {"a.png": jpeg(10), "b.png": jpeg(11), "other.jpg": jpeg(12)}))
    sd = open_tree(write_tar(tmp_path / "sd.tar", [("images/c.webp", jpeg(13)), ("images/a.jpg", b"broken")]))
    collection = read_twins(photos, {"sdxl": xl, "sd-1.4": sd})
    assert collection.problems.counts == {"no twin by sdxl": 1, "no twin by sd-1.4": 1}
    index = write_collection(collection, tmp_path / "out", keep_order=True)[""]
    assert [sorted(index.sample(i).views) for i in range(3)] == [["sdxl"], ["sdxl"], ["sd-1.4"]]
    assert collection.problems.counts["broken view"] == 1
    assert np.abs(picture(index, 1, 1) - pixels(11)).mean() < 4
    assert index.sources == ("real", "sd-1.4", "sdxl")


def test_captions_beside_photos(tmp_path: Path) -> None:
    photos = {"a.jpg": jpeg(0), "a.txt": b"one\n\n two \none\n", "b.jpg": jpeg(1), "c.jpg": jpeg(2), "c.txt": b"\n"}
    tree = open_tree(write_tree(tmp_path / "in", photos))
    twins = open_tree(write_tree(tmp_path / "sd", {"a.jpg": jpeg(3)}))
    collection = read_twins(tree, {"sd": twins})
    assert found(collection) == {"a": ("one", "two")}
    assert collection.problems.counts == {"picture without caption": 2}


def test_twins_that_are_none(tmp_path: Path) -> None:
    photos = read_captions(open_tree(write_tree(tmp_path / "in", PHOTOS | {"c.csv": b"image,caption\na,x\n"})))
    other = open_tree(write_tree(tmp_path / "xl", {"other.jpg": jpeg(12)}))
    with pytest.raises(DataError, match=r"--twins sdxl=.*none of its 1 pictures"):
        attach_twins(photos, {"sdxl": other})
    with pytest.raises(DataError, match="'real' is no generator"):
        attach_twins(photos, {"real": other})
    with pytest.raises(DataError, match="--twins 'SDXL'"):
        attach_twins(photos, {"SDXL": other})


def test_one_folder_per_scene(place: Callable[[Files], Path]) -> None:
    files = {f"{scene}/{source}.jpg": jpeg(0) for scene in ("001", "002") for source in ("sd1.4", "SD2.1")}
    files |= {"001/prompt.txt": b"a cat", "002/prompt.txt": b"a dog", "003/sd1.4.jpg": jpeg(0), "004/sd9.jpg": jpeg(0)}
    tree = open_tree(place(files))
    collection = read_scenes(tree)
    assert [(r.sample.source, sorted(r.sample.views)) for r in collection.records] == [("sd1.4", ["sd2.1"])] * 2
    assert collection.problems.counts == {"no .txt with captions": 1, "no picture by sd1.4": 1}
    assert [r.sample.source for r in read_scenes(tree, anchor="sd2.1").records] == ["sd2.1"] * 2
    with pytest.raises(DataError, match="--anchor dalle"):
        read_scenes(tree, anchor="dalle")
    assert read_scenes(tree).records[0].sample.key == "sd1-4-001"


# from records to shards


def many(tmp_path: Path, count: int = 40, source: str = "real") -> Collection:
    if not (tmp_path / "in").exists():
        write_tree(tmp_path / "in", {f"{'ab'[i % 2]}/{i:03d}.jpg": jpeg(i) for i in range(count)})
    return read_classes(open_tree(tmp_path / "in"), source=source)


def test_order_does_not_hang_on_threads_or_source(tmp_path: Path) -> None:
    one = write_collection(many(tmp_path), tmp_path / "one", workers=1)[""]
    four = write_collection(many(tmp_path), tmp_path / "four", workers=4)[""]
    assert [info.sha256 for info in one.shards] == [info.sha256 for info in four.shards]
    assert list(one.keys) != sorted(one.keys)
    assert 0 < np.flatnonzero(one.label[:20]).size < 20
    made = write_collection(many(tmp_path, source="sdxl"), tmp_path / "sdxl")[""]
    assert [key.removeprefix("sdxl-") for key in made.keys] == list(one.keys)
    kept = write_collection(many(tmp_path), tmp_path / "kept", keep_order=True, limit=7)[""]
    assert list(kept.keys) == sorted(one.keys)[:7]


def test_hold_out_is_exact_and_follows_identity(tmp_path: Path) -> None:
    real, made = hold_out(many(tmp_path), 0.25), hold_out(many(tmp_path, source="sdxl"), 0.25)
    held = {record.identity for record in real.records if record.split == "val"}
    assert len(held) == 10
    assert held == {record.identity for record in made.records if record.split == "val"}
    assert held == set(sorted((record.identity for record in real.records), key=string_id)[:10])
    indexes = write_collection(real, tmp_path / "out")
    assert {name: len(index) for name, index in indexes.items()} == {"train": 30, "val": 10}
    for share in (0.0, 1.0, -1.0, 0.001):
        with pytest.raises(DataError, match="--holdout"):
            hold_out(many(tmp_path), share)
    with pytest.raises(DataError, match="splits of its own"):
        hold_out(real, 0.5)


def test_one_split_goes_into_the_folder_itself(tmp_path: Path) -> None:
    collection = hold_out(many(tmp_path), 0.25)
    write_collection(collection, tmp_path / "out", split="val")
    assert len(ShardIndex.load(tmp_path / "out")) == 10
    with pytest.raises(DataError, match="the data set's splits are: train, val"):
        write_collection(collection, tmp_path / "other", split="test")


def test_broken_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    files = {"c/1.jpg": jpeg(0), "c/2.jpg": jpeg(1)[:300], "c/3.jpg": b"", "c/4.jpg": b"no picture"}
    collection = read_classes(open_tree(write_tree(tmp_path / "in", files)))
    seen: list[tuple[int, int]] = []
    index = write_collection(collection, tmp_path / "out", on_sample=lambda done, total: seen.append((done, total)))[""]
    assert list(index.keys) == ["c-1"]
    assert collection.problems.counts == {"broken picture": 3}
    assert seen == [(i, 4) for i in range(1, 5)]
    only_broken = read_classes(open_tree(write_tree(tmp_path / "bad", {"c/1.jpg": b"no picture"})))
    with pytest.raises(DataError, match="no picture could be read: broken picture: 1"):
        write_collection(only_broken, tmp_path / "none")
    assert not list((tmp_path / "none").iterdir())


def test_keeping_originals(tmp_path: Path) -> None:
    write_collection(many(tmp_path, 3), tmp_path / "out", image_format=ImageFormat(keep_original=True))
    index = ShardIndex.load(tmp_path / "out")
    for row, key in enumerate(index.keys):
        at = int(index.view_start[row])
        assert index.read_bytes(0, int(index.offset[at]), int(index.size[at])) == jpeg(int(key.rpartition("-")[2]))


def test_tars_that_are_damaged_or_unsafe(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("c/1.jpg", jpeg(0)), ("../c/2.jpg", jpeg(1)), ("c/3.jpg", jpeg(2))])
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"\xff\xd9")])
    collection = read_classes(open_tree(path))
    assert list(found(collection)) == ["c-1"]
    assert collection.problems.counts == {"unsafe member name": 1, "damaged tar": 1}
    for content, words in [(b"", "is empty"), (b"\x1f\x8b" + bytes(600), "compressed"), (b"x" * 999, "damaged header")]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_classes(open_tree(path))


def test_inputs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_tree(tmp_path / "nowhere")
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"neither a folder nor a plain \.tar"):
        open_tree(tmp_path / "a.zip")


# real pictures


def test_cifake(shared_data: Path, tmp_path: Path) -> None:
    for name, source in (("cifake_real", "real"), ("cifake_ai", "sd-1.4")):
        collection = read_classes(open_tree(shared_data / f"{name}.tar"), source=source)
        assert collection.splits == ["train", "test"]
        write_collection(collection, tmp_path / source, limit=50)
    index = ShardIndex.load([tmp_path / "real" / "train", tmp_path / "sd-1.4" / "train"])
    assert index.sources == ("real", "sd-1.4")
    assert len(index.labels) == 10
    assert len(index) == 100


def test_flickr8k_and_coco(shared_data: Path, tmp_path: Path) -> None:
    flickr = hold_out(read_captions(open_tree(shared_data / "flickr8k.tar")), 0.2)
    assert not flickr.problems
    assert {len(record.sample.captions) for record in flickr.records} <= {4, 5}
    assert sum(record.split == "val" for record in flickr.records) == round(0.2 * len(flickr.records))
    coco_tiny = read_coco(open_tree(shared_data / "coco_tiny.tar"))
    assert len(coco_tiny.records) == 78
    assert sum(len(record.sample.meta.get("objects", [])) for record in coco_tiny.records) == 675
    index = write_collection(coco_tiny, tmp_path / "coco", image_format=ImageFormat(size=64), limit=8)[""]
    assert picture(index, 0).shape == (64, 64, 3)
