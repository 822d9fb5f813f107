"""Results in the formats that a client may ask for."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi.responses import JSONResponse, Response
from PIL import Image

from ovseg.result.formats.geo import features
from ovseg.result.overlay import palette
from ovseg.result.segments import encode_mask
from ovseg.result.storage import check_count, describe, index_image
from ovseg.serve.requests import Format

if TYPE_CHECKING:
    from ovseg.result import SegmentationResult, Selection

_TOLERANCE = 0.5  # pixels that outlines may be off, as in files


def segmented(result: SegmentationResult, kind: Format, *, mark: str) -> Response:
    """A result as a client asked for it; ``mark`` is the SHA-256 of its photo's file."""
    if kind == "png":
        return picture(_index(result), mark=mark)
    if kind == "overlay":
        return picture(result.overlay(), mark=mark)
    document: dict[str, Any]
    if kind == "coco":
        document = result.to_coco()
    elif kind == "geojson":
        document = features(result, None, tolerance=_TOLERANCE)
    elif kind == "rle":
        document = {label: result.to_rle(label) for label in result.labels}
    else:
        index = base64.b64encode(to_png(_index(result))).decode("ascii")
        document = describe(result) | {"photo": mark, "index_png": index}
    return JSONResponse(document, headers=_marked(mark))


def selected(selection: Selection, kind: str, *, mark: str) -> Response:
    """A selection as a client asked for it."""
    if kind == "png":
        return picture(Image.fromarray(selection.mask.astype(np.uint8) * 255), mark=mark)
    if kind in {"overlay", "cutout"}:
        return picture(selection.overlay() if kind == "overlay" else selection.cutout(), mark=mark)
    document = selection.to_dict() | {"photo": mark, "rle": encode_mask(selection.mask)}
    return JSONResponse(document, headers=_marked(mark))


def picture(image: Image.Image, *, mark: str) -> Response:
    """A PNG."""
    return Response(to_png(image), media_type="image/png", headers=_marked(mark))


def to_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _index(result: SegmentationResult) -> Image.Image:
    check_count(len(result.labels))
    return index_image(result.index_map, palette(len(result.labels)))


def _marked(mark: str) -> dict[str, str]:
    return {"X-Ovseg-Photo": mark}
