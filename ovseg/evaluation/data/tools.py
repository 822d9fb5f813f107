"""The files of labelling tools, read: LabelMe, CVAT and Label Studio.

Source: labelme, _label_file.py; CVAT's documentation, "XML annotation format"; label-studio-sdk,
converter/brush.py.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.evaluation.data.regions import Drawing, Mask, Region, pixels, rectangle
from ovseg.files import parse_json

_AGAIN = "export it again"
_BAD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError)


def read_labelme(path: Path) -> Drawing:
    """What LabelMe's file of one photo holds.

    Raises:
        DatasetError: the file is cut off, or is in another format.
    """
    content = json_of(path)
    try:
        size = (int(content.get("imageHeight") or 0), int(content.get("imageWidth") or 0))
        regions = [_shape(shape) for shape in content["shapes"]]
        return _drawing(str(content["imagePath"]).replace("\\", "/"), size, regions)
    except _BAD as error:
        raise _strange(path, "LabelMe's file", error) from error


def read_cvat(path: Path) -> list[Drawing | None]:
    """What CVAT's "for images 1.1" holds.

    Raises:
        DatasetError: the file is cut off, or is in another format.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, UnicodeError) as error:
        raise DatasetError(f"'{path}' is cut off or not XML ({error}); {_AGAIN}") from error
    try:
        return [_cvat_image(image) for image in root.iter("image")]
    except _BAD as error:
        raise _strange(path, "CVAT's XML for images 1.1", error) from error


def read_label_studio(path: Path) -> list[Drawing | None]:
    """What Label Studio's JSON holds, None for each task that no person has done: predictions are no truth.

    Raises:
        DatasetError: the file is cut off, is in another format, or no task in it is done.
    """
    content = json_of(path)
    try:
        done = [(task, [each for each in task.get("annotations", ()) if not _cancelled(each)]) for task in content]
        drawings = [_task(task, some[0]["result"]) if some else None for task, some in done]
    except _BAD as error:
        raise _strange(path, "Label Studio's JSON", error) from error
    if not any(drawings):
        raise DatasetError(
            f"no task of '{path}' has an annotation that a person submitted; label some, and {_AGAIN}"
        )
    return drawings


def json_of(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DatasetError: it cannot be read, or is cut off.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read '{path}': {error}; {_AGAIN}") from error
    return parse_json(text, source=f"'{path}'", advice=_AGAIN, error=DatasetError)


def _drawing(photo: str, size: tuple[int, int], regions: Sequence[Region | None]) -> Drawing:
    kept = tuple(region for region in regions if region is not None)
    return Drawing(photo, size, kept, len(regions) - len(kept))


def _strange(path: Path, what: str, error: Exception) -> DatasetError:
    told = " ".join(f"{type(error).__name__} {error}".split())[:100]
    return DatasetError(f"'{path}' is not {what} ({told}); {_AGAIN}")


def _shape(shape: Mapping[str, Any]) -> Region | None:
    label, kind = str(shape["label"]), shape.get("shape_type", "polygon")
    points = np.array(shape["points"], dtype=float).reshape(-1, 2)
    if kind == "polygon":
        return Region(label, points)
    if kind == "rectangle":
        return Region(label, rectangle(*points.min(0), *points.max(0)))
    if kind == "circle":
        turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radius = float(np.linalg.norm(points[1] - points[0]))
        return Region(label, points[0] + radius * np.stack([np.cos(turns), np.sin(turns)], 1))
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            mask = np.asarray(image.convert("L")) > 0
        left, top = np.floor(points[0]).astype(int).tolist()
        return Region(label, mask=mask, corner=(top, left))
    return None


def _cvat_image(image: ElementTree.Element) -> Drawing:
    size = (int(image.attrib["height"]), int(image.attrib["width"]))
    shapes = sorted(image, key=lambda shape: int(shape.get("z_order", 0)))
    regions = [_CVAT[shape.tag](shape.attrib) if shape.tag in _CVAT else None for shape in shapes]
    return _drawing(image.attrib["name"], size, regions)


def _cvat_polygon(shape: Mapping[str, str]) -> Region:
    points = [[float(value) for value in pair.split(",")] for pair in shape["points"].split(";")]
    return Region(shape["label"], np.array(points).reshape(-1, 2))


def _cvat_box(shape: Mapping[str, str]) -> Region:
    ring = rectangle(*(float(shape[side]) for side in ("xtl", "ytl", "xbr", "ybr")))
    return Region(shape["label"], _rotated(ring, float(shape.get("rotation", 0)), about=ring.mean(0)))


def _cvat_mask(shape: Mapping[str, str]) -> Region:
    mask = pixels(shape["rle"].split(","), (int(shape["height"]), int(shape["width"])))
    return Region(shape["label"], mask=mask, corner=(int(shape["top"]), int(shape["left"])))


_CVAT: dict[str, Callable[[Mapping[str, str]], Region]] = {
    "polygon": _cvat_polygon,
    "box": _cvat_box,
    "mask": _cvat_mask,
}


def _rotated(ring: Any, degrees: float, *, about: Any) -> Any:
    turn = np.deg2rad(degrees)
    return (ring - about) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + about


def _cancelled(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("was_cancelled", False))


def _task(task: Mapping[str, Any], results: Any) -> Drawing:
    regions = [_label_studio_region(each) for each in results]
    sizes = {
        (int(each["original_height"]), int(each["original_width"])) for each in results if "original_width" in each
    }
    if len(sizes) > 1:
        raise ValueError(f"one task has photos of sizes {sorted(sizes)}")
    photo = next(value for value in task["data"].values() if isinstance(value, str))
    return _drawing(_photo(photo), next(iter(sizes), (0, 0)), regions)


def _photo(address: str) -> str:
    """The path of a photo in the address that a task has."""
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")
    return local[0] if local else unquote(parts.path).lstrip("/")


def _label_studio_region(result: Mapping[str, Any]) -> Region | None:
    kind, value = result["type"], result["value"]
    if kind not in {"brushlabels", "polygonlabels", "rectanglelabels"} or not value.get(kind):
        return None
    label, height, width = str(value[kind][0]), int(result["original_height"]), int(result["original_width"])
    if kind == "brushlabels":
        return Region(label, mask=_brush(value["rle"], (height, width)))
    scale = np.array([width, height]) / 100  # percent
    if kind == "polygonlabels":
        return Region(label, np.array(value["points"], dtype=float).reshape(-1, 2) * scale)
    x, y, w, h = (float(value[key]) for key in ("x", "y", "width", "height"))
    ring = rectangle(x, y, x + w, y + h) * scale
    return Region(label, _rotated(ring, float(value.get("rotation", 0)), about=ring[0]))


def _brush(packed: Any, size: tuple[int, int]) -> Mask:
    """(H, W) bool of Label Studio's runs: where the last of four values a pixel, its opacity, is not 0."""
    bits = "".join(f"{int(byte):08b}" for byte in packed)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("the runs of a brush are cut off")
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1]:
        raise ValueError(f"the runs of a brush are {total} values, for {size[0]} x {size[1]} pixels")
    values = np.zeros(total, dtype=np.uint8)
    done = 0
    while done < total:
        same, count = read(1), read(sizes[read(2)]) + 1
        values[done : done + count] = read(word) if same else [read(word) for _ in range(count)][: total - done]
        done += count
    return values.reshape(*size, 4)[..., 3] > 0
