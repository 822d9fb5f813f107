"""Label Studio's protocol for models: tasks with photos come, predictions in percent and brush codes go."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from ovseg.result.formats.brush import encode_brush
from ovseg.serve.photos import Photo
from ovseg.serve.refusals import Refusal
from ovseg.serve.requests import PhotoFields, SegmentRequest, SelectRequest, checked

if TYPE_CHECKING:
    from ovseg.result import Selection
    from ovseg.serve.service import Service

Mask = npt.NDArray[np.bool_]
_MOST_TASKS = 100
_MOST_XML = 1 << 20
_LOCAL_FILES = "/data/local-files/"


@dataclass(frozen=True)
class Control:
    """The tag of a labelling configuration that predictions are made for.

    Attributes:
        kind: ``brushlabels``, ``polygonlabels`` or ``rectanglelabels``.
        name: of the tag.
        image: name of the tag of the photo.
        field: of a task's data, that holds the photo.
        labels: what may be found.
    """

    kind: str
    name: str
    image: str
    field: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A request: its tasks, what to find, and the clicks of a person at work, if any."""

    tasks: tuple[dict[str, Any], ...]
    control: Control
    clicks: tuple[dict[str, Any], ...] = ()


class Backend:
    """Answers Label Studio.

    Args:
        service: the model.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.version = service.segmenter.config.name

    def setup(self, body: dict[str, Any]) -> dict[str, str]:
        """A project begins: its labelling configuration is read, so that one without use is told now."""
        config = body.get("schema")
        if config:
            self._service.check_labels(read_config(config).labels)
        return {"model_version": self.version}

    def read(self, body: dict[str, Any]) -> Asked:
        """The request in a body.

        Raises:
            Refusal: its tasks or its configuration cannot be used (422).
        """
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise Refusal(422, "expected a list 'tasks' of objects; call this as Label Studio does")
        if len(tasks) > _MOST_TASKS:
            raise Refusal(
                422, f"expected at most {_MOST_TASKS} tasks, got {len(tasks)}; send them in several parts"
            )
        control = read_config(body.get("label_config"))
        self._service.check_labels(control.labels)
        clicks: Any = body
        for name in ("params", "context", "result"):
            clicks = clicks.get(name) if isinstance(clicks, dict) else None
        known = clicks if isinstance(clicks, list) else []
        return Asked(tuple(tasks), control, tuple(each for each in known if isinstance(each, dict)))

    def predict(self, asked: Asked, task: dict[str, Any]) -> dict[str, Any]:
        """In the worker: what the photo of one task shows, or what was clicked in it.

        Raises:
            OvsegError: the photo cannot be had, or as ``Segmenter.segment`` and ``select``.
        """
        photo = self._photo(asked.control, task)
        if asked.clicks:
            selection = self._select(asked, photo)
            label = _clicked_label(asked)
            found = [] if not selection.area else [(label, selection.mask, selection.score)]
        else:
            request = SegmentRequest(labels=list(asked.control.labels))
            result = self._service.segment(request, photo)
            found = [(row.label, result[row.label], row.score) for row in result.table() if row.area]
        scores = [score for *_, score in found]
        return {
            "model_version": self.version,
            "score": float(np.mean(scores)) if scores else 0.0,
            "result": [part for each in found for part in _parts(asked.control, *each)],
        }

    def _select(self, asked: Asked, photo: Photo) -> Selection:
        height, width = self._service.photos.encoded(photo).image.shape[:2]
        fields: dict[str, Any] = {"positive": [], "negative": []}
        for click in asked.clicks:
            if click.get("type") == "rectanglelabels":
                x, y, right, lower = _pixels(click, ("x", "y", "width", "height"), (width, height))
                fields["box"] = [x, y, x + right, y + lower]
                continue
            x, y = _pixels(click, ("x", "y"), (width, height))
            off = str(click.get("is_positive", 1)).lower() in {"0", "false"}
            inside = [min(max(x, 0.0), width - 1e-3), min(max(y, 0.0), height - 1e-3)]  # 100 % is no pixel's
            fields["negative" if off else "positive"].append(inside)
        return self._service.select(checked(SelectRequest, fields), photo)

    def _photo(self, control: Control, task: dict[str, Any]) -> Photo:
        data = task.get("data")
        source = data.get(control.field) if isinstance(data, dict) else None
        if not isinstance(source, str):
            raise Refusal(422, f"expected the photo of a task in its data '{control.field}', got none")
        if source.startswith("data:"):
            return self._service.photo(PhotoFields(image=source))
        parts = urlsplit(source)
        if parts.path.endswith(_LOCAL_FILES):  # on whatever host: the file is read here, nothing is fetched
            return self._service.photo(PhotoFields(path=parse_qs(parts.query).get("d", [""])[0]))
        if parts.scheme or parts.netloc:
            raise Refusal(
                422, f"this server fetches no address, got '{source[:100]}'; use local storage, and --folder DIR"
            )
        return self._service.photo(PhotoFields(path=source))


def read_config(text: Any) -> Control:
    """The first tag of a labelling configuration that masks, outlines or boxes can be made for.

    Raises:
        Refusal: it is no such configuration (422).
    """
    if not isinstance(text, str) or len(text) > _MOST_XML or re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise Refusal(422, "expected the labelling configuration of a project in XML, got something else")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise Refusal(422, "the labelling configuration is no XML; save it in Label Studio again") from error
    fields = {tag.get("name", ""): tag.get("value", "").lstrip("$") for tag in root.iter("Image")}
    for tag in root.iter():
        image = tag.get("toName", "")
        if tag.tag.lower() in _DRAWN and image in fields:
            labels = tuple(each.get("value", "") for each in tag.iter("Label"))
            return Control(tag.tag.lower(), tag.get("name", ""), image, fields[image], labels)
    raise Refusal(422, "expected a labelling configuration with BrushLabels, PolygonLabels or RectangleLabels")


def _pixels(click: Mapping[str, Any], names: Sequence[str], sides: tuple[int, int]) -> list[float]:
    """These numbers of a click, that are percent of width and height in turn, in pixels."""
    value = click.get("value")
    try:
        if not isinstance(value, dict):
            raise TypeError
        return [float(value[name]) / 100 * side for name, side in zip(names, cycle(sides), strict=False)]
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(422, "expected clicks and boxes in percent, got something else; click again") from error


def _clicked_label(asked: Asked) -> str:
    for click in asked.clicks:
        value = click.get("value")
        named = value.get(str(click.get("type"))) if isinstance(value, dict) else None
        if isinstance(named, list) and named and isinstance(named[0], str):
            return named[0]
    return asked.control.labels[0] if asked.control.labels else "thing"


def _parts(control: Control, label: str, mask: Mask, score: float) -> list[dict[str, Any]]:
    """The predictions of one mask: one for a brush, one for each outline or box."""
    height, width = mask.shape
    common = {
        "from_name": control.name,
        "to_name": control.image,
        "type": control.kind,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": score,
    }
    return [common | {"value": value | {control.kind: [label]}} for value in _DRAWN[control.kind](mask)]


def _brush(mask: Mask) -> list[dict[str, Any]]:
    return [{"format": "rle", "rle": encode_brush(mask)}]


def _outlines(mask: Mask) -> list[dict[str, Any]]:
    """Outer outlines in percent; Label Studio's polygons have no holes."""
    from ovseg.result.polygons import polygons

    scale = 100 / np.array(mask.shape[::-1])
    return [{"points": (each.outer[:-1] * scale).tolist()} for each in polygons(mask)]


def _boxes(mask: Mask) -> list[dict[str, Any]]:
    from ovseg.result.segments import boxes

    height, width = mask.shape
    return [
        {
            "x": 100 * x0 / width,
            "y": 100 * y0 / height,
            "width": 100 * (x1 - x0) / width,
            "height": 100 * (y1 - y0) / height,
            "rotation": 0,
        }
        for x0, y0, x1, y1 in boxes(mask)
    ]


_DRAWN: dict[str, Callable[[Mask], list[dict[str, Any]]]] = {
    "brushlabels": _brush,
    "polygonlabels": _outlines,
    "rectanglelabels": _boxes,
}
