"""Turns what people have into shards: each importer reads one layout into records, one writer writes them."""

from datamodules.importers.captions import read_captions
from datamodules.importers.classes import read_classes
from datamodules.importers.coco import read_coco
from datamodules.importers.faces import read_faces
from datamodules.importers.files import FileTree, open_tree
from datamodules.importers.labelled_names import read_labelled_names
from datamodules.importers.paired_rows import fetch_pictures, read_pairs
from datamodules.importers.records import Collection, Record, attach_twins, hold_out, write_collection
from datamodules.importers.twins import read_scenes, read_twins

__all__ = [
    "Collection",
    "FileTree",
    "Record",
    "attach_twins",
    "fetch_pictures",
    "hold_out",
    "open_tree",
    "read_captions",
    "read_classes",
    "read_coco",
    "read_faces",
    "read_labelled_names",
    "read_pairs",
    "read_scenes",
    "read_twins",
    "write_collection",
]
