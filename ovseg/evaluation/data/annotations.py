"""COCO's JSON of objects and of panoptic segments, read and checked: what each image has, still undecoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from ovseg.errors import DatasetError
from ovseg.files import read_json
from ovseg.result.segments import decode_runs

Kind = Literal["panoptic", "instances"]
_FREQUENCIES = {"f": "frequent", "c": "common", "r": "rare"}  # of LVIS
_FETCH = "fetch the annotations again"


@dataclass(frozen=True)
class AnnotatedImage:
    """What the JSON says of one image.

    Attributes:
        name: path of the image file without its ending.
        key: id of the image, as text.
        size: H, W.
        rows: its segments (panoptic) or objects (instances), as they are in the file.
        picture: name of the panoptic PNG without its ending; empty where there is none.
        judged: category ids of which it is known whether the image has them (LVIS); None: all.
        partial: category ids of which not all objects are annotated (LVIS).
    """

    name: str
    key: str
    size: tuple[int, int]
    rows: tuple[dict[str, Any], ...]
    picture: str = ""
    judged: frozenset[int] | None = None
    partial: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Category:
    """One category: its id, its name with blanks for underscores, and whether it has objects to count.

    Attributes:
        frequency: "frequent", "common" or "rare" (LVIS); empty where the file does not say.
    """

    id: int
    name: str
    thing: bool
    frequency: str = ""


@dataclass(frozen=True)
class Annotations:
    """A JSON file of annotations: categories in order of their ids, images in order of their names."""

    categories: tuple[Category, ...]
    images: tuple[AnnotatedImage, ...]


def read_annotations(path: Path, *, kind: Kind) -> Annotations:
    """The annotations in COCO's format in the file at ``path``.

    Raises:
        DatasetError: the file cannot be read, is in another format, names an image, a category or a segment twice,
            or says something of an image or a category that it does not name.
    """
    content = read_json(path, what="annotation file", advice=_FETCH, error=DatasetError)
    try:
        listed = [_category(row, kind) for row in content["categories"]]
        categories = tuple(sorted(listed, key=lambda each: each.id))
        _refuse_twice([each.id for each in categories], "category", path)
        images = content["images"]
        _refuse_twice([row["id"] for row in images], "image", path)
        rows = _panoptic_rows(content, path) if kind == "panoptic" else _instance_rows(content)
        _refuse_unknown(rows, {row["id"] for row in images}, {each.id for each in categories}, path)
        if kind == "panoptic":
            _refuse_bare([row for row in images if row["id"] not in rows], path)
        found = sorted((_image(row, *rows.get(row["id"], ("", ()))) for row in images), key=lambda each: each.name)
    except DatasetError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DatasetError(
            f"'{path}' is not in COCO's format for {kind} ({error!r:.80}); it needs images, annotations and "
            "categories, as cocodataset.org describes"
        ) from error
    _refuse_twice([each.name for each in found], "image", path)
    return Annotations(categories, tuple(found))


def checked_rle(segmentation: Any, size: tuple[int, int], *, what: str) -> dict[str, Any]:
    """COCO's compressed run-length encoding of polygons, of runs, or of compressed runs, whichever came.

    Args:
        segmentation: as in the JSON.
        size: H, W of the image.
        what: the object, for errors.

    Raises:
        DatasetError: it cannot be read, or is of another size.
    """
    from pycocotools import mask as masks

    height, width = size
    try:
        if isinstance(segmentation, list):
            polygons = [[float(value) for value in polygon] for polygon in segmentation]
            if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
                raise ValueError("a polygon needs three points or more")
            return _as_text(masks.merge(masks.frPyObjects(polygons, height, width)))
        stated = tuple(int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        runs = decode_runs(counts) if isinstance(counts, str) else _runs(counts)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, UnicodeError) as error:
        raise DatasetError(f"the mask of {what} cannot be read ({error!s:.80}); {_FETCH}") from error
    if stated != size:
        raise DatasetError(
            f"the mask of {what} is {stated[0]} x {stated[1]} pixels (H x W) but its image {height} x {width}; "
            "each mask must have its image's size"
        )
    ends = [0, *(end for run in runs for end in run)]
    if any(after < before for before, after in pairwise(ends)) or ends[-1] > height * width:
        raise DatasetError(f"the mask of {what} cannot be read (its runs do not fit {height} x {width}); {_FETCH}")
    whole = np.diff([*ends, height * width]).tolist()  # pycocotools trusts the sum of the counts
    return _as_text(masks.frPyObjects({"size": [height, width], "counts": whole}, height, width))


def annotated_twice(images: Sequence[AnnotatedImage]) -> list[str]:
    """What to tell of objects of a category that are annotated twice in an image: equal boxes and areas."""
    copies = []
    for image in images:
        seen: dict[tuple[Any, ...], Any] = {}
        for row in image.rows:
            key = (row["category_id"], row.get("area"), *row.get("bbox", ()))
            if len(key) > 2 and seen.setdefault(key, row.get("id")) != row.get("id"):
                copies.append(f"{seen[key]} and {row.get('id')} of '{image.name}'")
    if not copies:
        return []
    return [f"{len(copies)} objects are annotated twice, with one box and area, such as {copies[0]}; one is missed"]


def _as_text(rle: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def _runs(counts: Sequence[Any]) -> list[tuple[int, int]]:
    """Start and end of each run of ones of uncompressed counts.

    Raises:
        ValueError: a count is negative or no whole number.
    """
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("counts must be whole numbers from 0")
    ends = np.cumsum(counts).tolist()
    return list(zip(ends[0::2], ends[1::2], strict=False))


def _category(row: Mapping[str, Any], kind: Kind) -> Category:
    thing = kind == "instances" or bool(row["isthing"])
    name = str(row["name"]).replace("_", " ")
    return Category(int(row["id"]), name, thing, _FREQUENCIES.get(row.get("frequency", ""), ""))


def _image(row: Mapping[str, Any], picture: str, rows: Sequence[dict[str, Any]]) -> AnnotatedImage:
    path = PurePosixPath(row["file_name"] if "file_name" in row else "/".join(row["coco_url"].split("/")[-2:]))
    judged = row.get("neg_category_ids")
    return AnnotatedImage(
        str(path.with_suffix("")),
        str(row["id"]),
        (int(row["height"]), int(row["width"])),
        tuple(rows),
        picture,
        None if judged is None else frozenset(map(int, judged)),
        frozenset(map(int, row.get("not_exhaustive_category_ids", ()))),
    )


Rows = dict[Any, tuple[str, list[dict[str, Any]]]]  # by image id: name of the picture, segments or objects


def _panoptic_rows(content: Mapping[str, Any], path: Path) -> Rows:
    _refuse_twice([row["image_id"] for row in content["annotations"]], "annotation of image", path)
    rows: Rows = {}
    for row in content["annotations"]:
        info = row["segments_info"]
        _refuse_twice([each["id"] for each in info], f"segment of image {row['image_id']}", path)
        rows[row["image_id"]] = (str(PurePosixPath(row["file_name"]).with_suffix("")), info)
    return rows


def _instance_rows(content: Mapping[str, Any]) -> Rows:
    rows: Rows = {}
    for row in content["annotations"]:
        rows.setdefault(row["image_id"], ("", []))[1].append(row)
    return rows


def _refuse_twice(ids: Sequence[Any], what: str, path: Path) -> None:
    twice = [each for each, count in Counter(ids).items() if count > 1]
    if twice:
        raise DatasetError(f"'{path}' must name each {what} once, got '{twice[0]}' twice; remove one")


def _refuse_unknown(rows: Rows, images: set[Any], categories: set[int], path: Path) -> None:
    for image, (_, members) in rows.items():
        if image not in images:
            raise DatasetError(f"'{path}' has annotations of an image '{image}' that it does not list; {_FETCH}")
        for row in members:
            if row["category_id"] not in categories:
                raise DatasetError(
                    f"'{path}' gives '{row['id']}' in image '{image}' the category {row['category_id']}, which it "
                    f"does not list; {_FETCH}"
                )


def _refuse_bare(bare: Sequence[Mapping[str, Any]], path: Path) -> None:
    if bare:
        raise DatasetError(
            f"'{path}' lists {len(bare)} images without annotation, such as '{bare[0]['id']}'; {_FETCH}"
        )
