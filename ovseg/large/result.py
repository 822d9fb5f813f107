"""What is known about a picture that was read by windows, without its pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ovseg.errors import ImageError, VocabularyError
from ovseg.files import read_json
from ovseg.large.objects import SceneObject
from ovseg.result import LabelSummary
from ovseg.result.overlay import palette
from ovseg.result.storage import none_value


@dataclass(frozen=True)
class LargeResult:
    """The labels of a large picture: what each covers, and the files that hold the pixels.

    Attributes:
        size: (H, W) of the picture.
        rows: of each label its share of the picture, mean score, and presence, in order.
        index: GeoTIFF of positions in ``labels``.
        overlay: PNG of the picture with its labels in colour, at most about 2000 pixels long.
        record: JSON file with all that is here.
        outlines: GeoJSON, if it was asked for.
        provenance: what made the result.
        instances: the objects, the surest first; None where none were looked for.
        things: the labels of which objects were looked for.
        objects: GeoTIFF of the number of the object at each pixel, 1 for the first of ``instances`` and 0 for none;
            where several are, the surest; None where none were looked for.
    """

    size: tuple[int, int]
    rows: tuple[LabelSummary, ...]
    index: Path
    overlay: Path
    record: Path
    outlines: Path | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    instances: tuple[SceneObject, ...] | None = None
    things: tuple[str, ...] = ()
    objects: Path | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """L names."""
        return tuple(row.label for row in self.rows)

    @property
    def presence(self) -> dict[str, float]:
        """How sure it is of each label that the picture shows it at all, in [0, 1]."""
        return {row.label: row.presence for row in self.rows}

    def table(self) -> list[LabelSummary]:
        """One row per label, in order; the score is 0 where the label won no pixel."""
        return list(self.rows)

    def area(self, label: str) -> float:
        """Share of the picture where ``label`` won, in [0, 1]."""
        return next(row.area for row in self.rows if row.label == label)

    def count(self, label: str) -> int:
        """The number of objects of ``label``.

        Raises:
            VocabularyError: none of its objects were looked for.
        """
        if label not in self.things:
            raise VocabularyError(
                f"no objects of '{label}' were looked for; name it in segment_large(..., instances=['{label}'])"
            )
        return sum(each.label == label for each in self.instances or ())

    def describe(self) -> dict[str, Any]:
        """As the JSON file of a photo's result."""
        return {
            "index": self.index.name,
            "overlay": self.overlay.name,
            "outlines": None if self.outlines is None else self.outlines.name,
            "objects": None if self.objects is None else self.objects.name,
            "size": list(self.size),
            "image": None,
            "none": none_value(len(self.rows)),
            "labels": list(self.labels),
            "presence": self.presence,
            "areas": {row.label: row.area for row in self.rows},
            "scores": {row.label: row.score for row in self.rows},
            "instances": None if self.instances is None else [asdict(each) for each in self.instances],
            "things": list(self.things),
            "provenance": self.provenance,
            "palette": palette(len(self.rows)).tolist(),
        }

    @classmethod
    def load(cls, path: str | Path) -> LargeResult:
        """What the JSON file says.

        Raises:
            ImageError: it is missing or damaged.
        """
        path = Path(path)
        known: Mapping[str, Any] = read_json(path, what="result", advice="make it again", error=ImageError)
        try:
            rows = [
                LabelSummary(label, known["areas"][label], known["scores"][label], known["presence"][label])
                for label in known["labels"]
            ]
            things, found = tuple(known["things"]), known["instances"]
            instances = None if found is None else tuple(SceneObject(**each) for each in found)
            height, width = known["size"]
            outlines, objects = (
                None if (name := known.get(kind)) is None else path.parent / name
                for kind in ("outlines", "objects")
            )
            return cls(
                (height, width),
                counted(rows, things, instances),
                path.parent / known["index"],
                path.parent / known["overlay"],
                path,
                outlines,
                known["provenance"],
                instances,
                things,
                objects,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(
                f"expected a result in '{path}', but it is damaged ({error!r}); make it again"
            ) from error


def counted(
    rows: Sequence[LabelSummary], things: Sequence[str], instances: Sequence[SceneObject] | None
) -> tuple[LabelSummary, ...]:
    """The rows of a table with the number of objects of the labels that were looked for."""
    counts = Counter(each.label for each in instances or ())
    return tuple(row._replace(objects=counts[row.label] if row.label in things else None) for row in rows)
