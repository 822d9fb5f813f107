"""Results on disk: an indexed PNG, an overlay, and a JSON file that is written last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg.errors import ImageError, OutputError
from ovseg.files import atomic_paths, read_json, sha256_of_bytes, to_json
from ovseg.images.load import quiet_pillow
from ovseg.result.overlay import palette
from ovseg.result.segments import Segment

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

_FAST = 1  # of zlib, for pictures that are looked at: a third of the time, a quarter more bytes
MAX_NAME = 220  # bytes: with what is added to names, here and while a file is written, the 255 of most file systems
COCO_FILE = "_annotations.coco.json"  # beside the results of many images; no result of its own
PANOPTIC_FILE = "_panoptic.coco.json"
NONE_8_BIT = 255
NONE_16_BIT = 65535


def save(result: SegmentationResult, folder: Path, *, name: str, overwrite: bool) -> list[Path]:
    """See ``SegmentationResult.save``."""
    check_count(len(result.labels))
    check_name(name)
    colours = palette(len(result.labels))
    index_path, overlay_path, json_path = (
        folder / f"{name}{ending}" for ending in (".png", "_overlay.png", ".json")
    )
    record = {"index": index_path.name, "overlay": overlay_path.name} | describe(result)
    paths = [index_path, overlay_path, json_path]
    if not overwrite:
        check_place(paths, record)
    with atomic_paths(paths) as (index, overlay, document):
        index_image(result.index_map, colours).save(index)
        result.overlay().save(overlay, compress_level=_FAST)
        document.write_text(to_json(record), "utf-8", "backslashreplace")
    return paths


def source_of(path: Path) -> str:
    """The image that the result with this JSON file was made of, as it says; empty where it does not say."""
    return str(_read_record(path).get("provenance", {}).get("source", ""))


def same_file(one: str, other: str) -> bool:
    """Whether two paths, relative or not, lead to one place; an empty one leads nowhere."""
    return bool(one and other) and os.path.abspath(one) == os.path.abspath(other)


def check_place(paths: Sequence[Path], record: Mapping[str, Any]) -> None:
    """Refuse to replace files that are no result of the same image."""
    json_path = paths[-1]
    if not json_path.exists():
        found = [path for path in paths if path.exists()]
        if found:
            raise OutputError(
                f"'{found[0]}' is there and belongs to no result; give another name=, or overwrite=True"
            )
        return
    there, source = _read_record(json_path), str(record["provenance"].get("source", ""))
    theirs = source_of(json_path)
    if same_file(theirs, source):
        return
    if not (theirs and source) and record["image"] and record["image"] == there.get("image"):
        return
    whose = f"the result of '{theirs}'" if theirs else "no result of this image"
    ours = f"'{source}'" if source else "another image"
    raise OutputError(
        f"'{json_path}' is {whose} and is not replaced by that of {ours}; give another name=, or overwrite=True"
    )


def _read_record(path: Path) -> dict[str, Any]:
    """What the JSON file of a result says; nothing where it cannot be read."""
    try:
        record = read_json(path, what="result", advice="save it again", error=ImageError)
    except ImageError:
        return {}
    return record if isinstance(record.get("provenance"), dict) else {}


def check_count(labels: int) -> None:
    """Refuse more labels than an index image can hold, best before they are encoded.

    Raises:
        OutputError: there are too many.
    """
    if labels > NONE_16_BIT:
        raise OutputError(f"a saved result holds at most {NONE_16_BIT} labels, got {labels}; use fewer")


def check_name(name: str) -> str:
    """The name, where files of a result can have it.

    Raises:
        OutputError: it leads out of the folder, or is too long for a file system.
    """
    if name in {"", ".", ".."} or any(mark in name for mark in "/\\\0"):
        raise OutputError(
            f"the name of a result must be a file's name without folders, got {name!r}; put it in folder="
        )
    length = len(os.fsencode(name))
    if length > MAX_NAME:
        raise OutputError(
            f"the name of a result must have at most {MAX_NAME} bytes, got {length}: '{name[:20]}...'; shorten it"
        )
    return name


def describe(result: SegmentationResult) -> dict[str, Any]:
    """Everything about a result but its pixels, as plain values that fit into JSON."""
    rows = result.table()
    provenance = json.loads(json.dumps(result.provenance, default=str))
    return {
        "size": list(result.size),
        "image": None if result.image is None else sha256_of_bytes(np.ascontiguousarray(result.image).tobytes()),
        "none": none_value(len(result.labels)),
        "labels": list(result.labels),
        "presence": {row.label: row.presence for row in rows},
        "areas": {row.label: row.area for row in rows},
        "scores": {row.label: row.score for row in rows},
        "instances": None if result.instances is None else [asdict(each) for each in result.instances],
        "things": list(result.things),
        "provenance": provenance,
        "palette": palette(len(result.labels)).tolist(),
    }


def load(source: Path) -> dict[str, Any]:
    """The fields of the result at ``source``, a JSON file or its folder; see ``SegmentationResult.load``."""
    path = _find_json(source)
    try:
        record = read_json(path, what="result", advice="save it again", error=ImageError)
        with quiet_pillow(), Image.open(path.parent / record["index"]) as image:
            stored = np.array(image).astype(np.int32)
        labels, instances = tuple(record["labels"]), record.get("instances")
        index_map = np.where(stored == record["none"], -1, stored).astype(np.int32)
        means = np.array([*(record["scores"][label] for label in labels), 0], dtype=np.float32)
        return {
            "index_map": index_map,
            "labels": labels,
            "score_map": means[index_map],  # -1 takes the last, 0
            "presence": {label: record["presence"][label] for label in labels},
            "instances": None if instances is None else tuple(Segment(**each) for each in instances),
            "things": tuple(record.get("things", ())),
            "provenance": record["provenance"],
        }
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ImageError(
            f"expected a saved result at '{path}', but it is incomplete or damaged ({error!r}); save it again"
        ) from error


def _find_json(source: Path) -> Path:
    if source.is_dir():
        found = sorted(path for path in source.glob("*.json") if path.name not in {COCO_FILE, PANOPTIC_FILE})
        if len(found) != 1 and source / "result.json" not in found:
            raise ImageError(
                f"expected one result in folder '{source}', found {len(found)} JSON files; give the file"
            )
        return found[0] if len(found) == 1 else source / "result.json"
    if not source.is_file():
        raise ImageError(f"no saved result '{source}'; give the folder or the JSON file that save wrote")
    return source


def none_value(labels: int) -> int:
    """What stands for none of so many labels in a file."""
    return NONE_8_BIT if labels <= NONE_8_BIT else NONE_16_BIT


def index_values(
    index_map: npt.NDArray[np.int32], *, labels: int
) -> tuple[npt.NDArray[np.uint8] | npt.NDArray[np.uint16], int]:
    """The map in as few bits as its labels need, (H, W) uint8 or uint16, and its value for none of them."""
    none = none_value(labels)
    values = np.where(index_map < 0, none, index_map)
    return (values.astype(np.uint16) if none == NONE_16_BIT else values.astype(np.uint8)), none


def index_image(index_map: npt.NDArray[np.int32], colours: npt.NDArray[np.uint8]) -> Image.Image:
    """The picture of ``SegmentationResult.save``: each pixel is its label's position, in the label's colour."""
    values, none = index_values(index_map, labels=len(colours))
    image = Image.fromarray(values)
    if none == NONE_16_BIT:
        return image
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    image.putpalette(table.ravel().tolist())
    return image
