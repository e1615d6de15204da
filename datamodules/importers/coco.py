"""COCO's annotation files (captions and instances) and Karpathy's splits of COCO and Flickr (``dataset_*.json``)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.importers.captions import find_table, parse_json_file
from datamodules.importers.files import FileTree, Picture, suffix, without_suffix
from datamodules.importers.records import Collection, Keys, Record
from datamodules.objects.masks import decode_rle, encode_rle
from datamodules.reencode import ImageFormat, Placement
from datamodules.sample import REAL, Sample

# Everybody who trains on Karpathy's split of COCO counts "restval" as training data.
_KARPATHY_SPLITS = {"restval": "train"}


def read_coco(
    tree: FileTree,
    annotations: str | Path | None = None,
    instances: str | Path | None = None,
    *,
    source: str = REAL,
    key_prefix: str | None = None,
    image_format: ImageFormat | None = None,
) -> Collection:
    """Read pictures described in COCO's or Karpathy's format.

    Objects go to the sample's ``meta["objects"]``: a list of ``{"category", "box": [left, top, width, height],
    "polygons": [[x0, y0, ...], ...] or "rle": {"size": [height, width], "counts": [...]}, "crowd"}`` in pixels of the
    picture *as written*.

    Args:
        tree: the pictures, found by file name wherever they lie.
        annotations: ``captions_*.json`` or ``dataset_*.json``, on disk or within the tree; None takes the one that the
            tree holds.
        instances: ``instances_*.json``; None takes the one that the tree holds, if any.
        source: of all pictures.
        key_prefix: see :class:`datamodules.importers.records.Keys`.
        image_format: how the pictures will be written, so that boxes move with the pixels.

    Raises:
        DataError: naming the file, if it is of another format or names no picture of the tree.
    """
    if annotations is None:
        annotations = _only(tree, ("captions", "dataset_"))
    name, data = find_table(tree, annotations, "--annotations")
    obj = parse_json_file(name, data)
    if not isinstance(obj, dict) or not isinstance(obj.get("images"), list) or not obj["images"]:
        raise DataError(f"{name}: has no list 'images'; it is in neither COCO's nor Karpathy's format")
    found, keys = Collection(problems=tree.problems), Keys(source, key_prefix)
    try:
        images = _karpathy(obj) if "sentences" in obj["images"][0] else _coco(obj, name)
        objects = _objects(tree, instances)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name}: an entry lacks what COCO's format has ({error})") from error
    for image_id, file_name, captions, split, size in images:
        picture = tree.find(file_name)
        if picture is None:
            found.problems.add("annotation without picture", file_name)
            continue
        if not captions:
            found.problems.add("picture without caption", file_name)
            continue
        meta: dict[str, Any] = {"image_id": image_id}
        if image_id in objects:
            width, height = size or (0, 0)
            if not (width and height):
                raise DataError(f"{name}: picture {file_name} has objects but no width and height to place them in")
            placement = (image_format or ImageFormat()).placement(width, height)
            try:
                meta["objects"] = _placed(objects[image_id], placement)
            except DataError as error:
                raise DataError(f"{name}: picture {file_name}: {error}") from error
        identity = without_suffix(file_name.rpartition("/")[2])
        sample = Sample(keys.make(identity), tuple(captions), source, meta=meta)
        found.records.append(Record(sample, Picture(tree, picture), identity, split))
    if not found.records:
        raise DataError(f"{name}: none of its {len(obj['images'])} pictures with captions lies in {tree.path}")
    return found


_Image = tuple[Any, str, list[str], str, tuple[int, int] | None]


def _only(tree: FileTree, starts: tuple[str, ...]) -> str | None:
    """The one json of the tree whose name starts so; None lets the caller's error speak."""
    fits = [
        name for name in tree.names if suffix(name) == ".json" and name.rpartition("/")[2].lower().startswith(starts)
    ]
    return fits[0] if len(fits) == 1 else None


def _clean(texts: list[Any]) -> list[str]:
    captions = (" ".join(text.split()) for text in texts if isinstance(text, str))
    return list(dict.fromkeys(text for text in captions if text))


def _karpathy(obj: dict[str, Any]) -> list[_Image]:
    return [
        (
            image.get("cocoid", image.get("imgid")),
            image["filename"],
            _clean([sentence.get("raw") or " ".join(sentence["tokens"]) for sentence in image["sentences"]]),
            _KARPATHY_SPLITS.get(image.get("split", ""), image.get("split", "")),
            None,
        )
        for image in obj["images"]
    ]


def _coco(obj: dict[str, Any], name: str) -> list[_Image]:
    captions = defaultdict(list)
    for annotation in obj.get("annotations", []):
        if "caption" not in annotation:
            raise DataError(
                f"{name}: its annotations are no captions; give it with --instances and captions_*.json here"
            )
        captions[annotation["image_id"]].append(annotation["caption"])
    return [
        (
            image["id"],
            image["file_name"],
            _clean(captions[image["id"]]),
            "",
            (image["width"], image["height"]) if "width" in image and "height" in image else None,
        )
        for image in obj["images"]
    ]


def _objects(tree: FileTree, instances: str | Path | None) -> dict[Any, list[dict[str, Any]]]:
    if instances is None:
        instances = _only(tree, ("instances",))
    if instances is None:
        return {}
    name, data = find_table(tree, instances, "--instances")
    obj = parse_json_file(name, data)
    if not isinstance(obj, dict) or "categories" not in obj or "annotations" not in obj:
        raise DataError(f"{name}: has no 'categories' and 'annotations'; it is not COCO's instances file")
    categories = {category["id"]: category["name"] for category in obj["categories"]}
    found = defaultdict(list)
    for annotation in obj["annotations"]:
        found[annotation["image_id"]].append(
            {
                "category": categories[annotation["category_id"]],
                "box": annotation["bbox"],
                "crowd": bool(annotation.get("iscrowd", 0)),
                "segmentation": annotation.get("segmentation"),
            }
        )
    return dict(found)


def _placed(objects: list[dict[str, Any]], placement: Placement) -> list[dict[str, Any]]:
    placed = []
    for thing in objects:
        box = placement.box(*thing["box"])
        if box is None:
            continue  # cut off with the margin that it lay in
        entry = {"category": thing["category"], "box": [round(v, 2) for v in box], "crowd": thing["crowd"]}
        outline = thing["segmentation"]
        if isinstance(outline, list):
            entry["polygons"] = [[round(v, 2) for v in placement.polygon(points)] for points in outline]
        elif isinstance(outline, dict) and outline.get("counts"):  # crowds, and detectors' output
            entry["rle"] = _placed_rle(outline, placement)
        placed.append(entry)
    return placed


def _placed_rle(rle: dict[str, Any], placement: Placement) -> dict[str, Any]:
    """Move a run-length mask; written without compression, so that equal masks have equal text."""
    mask = decode_rle(rle)
    height, width = mask.shape
    if (placement.scale, placement.width, placement.height) == (1.0, width, height):
        return encode_rle(mask)
    rows = (np.arange(placement.height) + placement.top + 0.5) / placement.scale
    columns = (np.arange(placement.width) + placement.left + 0.5) / placement.scale
    nearest = [side.astype(int).clip(0, most - 1) for side, most in ((rows, height), (columns, width))]
    return encode_rle(mask[np.ix_(*nearest)])
