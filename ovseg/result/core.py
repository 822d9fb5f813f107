"""The result of segmenting one image, validated when made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ovseg.errors import ShapeError, VocabularyError, did_you_mean
from ovseg.result import coco, descriptors, html, masks, overlay, storage, tables
from ovseg.result.formats.base import TOLERANCE
from ovseg.result.formats.registry import export
from ovseg.result.panoptic import Panoptic, to_panoptic
from ovseg.result.polygons import Polygon, polygons
from ovseg.result.segments import Segment, boxes, cut_out, encode_mask, paint, small_parts

if TYPE_CHECKING:
    from PIL import Image


class LabelSummary(NamedTuple):
    """One label of a result: its share of the image, its mean score where it won, its presence, and its objects.

    ``objects`` is their number, None for labels of which none were looked for.
    """

    label: str
    area: float
    score: float
    presence: float
    objects: int | None = None


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """A label per pixel of one image.

    Attributes:
        index_map: (H, W) int32; position in ``labels``, or -1 for none of them.
        labels: L names.
        score_map: (H, W) float32 in [0, 1]; how sure the winning label is.
        presence: per label, in order, how sure it is that the image shows it at all, in [0, 1].
        scores: (L, H, W) float16, the scores of all labels; or None.
        image: (H, W, 3) uint8 RGB, for the overlay; or None.
        instances: the objects, the surest first; their masks may overlap. None where none were looked for.
        things: the labels of which objects were looked for.
        provenance: what made the result: model, settings, source; plain values that fit into JSON.

    Raises:
        ShapeError: an array has another shape, dtype or range, or ``presence`` has other labels.
    """

    index_map: npt.NDArray[np.int32]
    labels: tuple[str, ...]
    score_map: npt.NDArray[np.float32] = field(repr=False)
    presence: dict[str, float]
    scores: npt.NDArray[np.float16] | None = field(default=None, repr=False)
    image: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    instances: tuple[Segment, ...] | None = None
    things: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.index_map.ndim != 2 or self.index_map.size == 0:
            raise ShapeError(f"index_map must be (H, W) with at least one pixel, got {self.index_map.shape}")
        _check_array("index_map", self.index_map, shape=self.size, dtype="int32")
        _check_array("score_map", self.score_map, shape=self.size, dtype="float32")
        if self.scores is not None:
            _check_array("scores", self.scores, shape=(len(self.labels), *self.size), dtype="float16")
        if self.image is not None:
            _check_array("image", self.image, shape=(*self.size, 3), dtype="uint8")
        _check_range("index_map", self.index_map, low=-1, high=len(self.labels) - 1)
        _check_range("score_map", self.score_map, low=0, high=1)
        if tuple(self.presence) != self.labels:
            raise ShapeError(
                f"presence must have one entry per label in the order {list(self.labels)}, "
                f"got {list(self.presence)}"
            )
        object.__setattr__(self, "things", tuple(self.things))
        for label in self.things:
            self._index_of(label)
        for each in self.instances or ():
            if each.label not in self.things:
                raise ShapeError(f"the label of an object must be one of things={self.things}, got '{each.label}'")
            if tuple(each.rle["size"]) != self.size:
                raise ShapeError(f"instances must be of {self.size} pixels, got one of {each.rle['size']}")

    def __repr__(self) -> str:
        shares = ", ".join(f"{row.label} {row.area:.1%}" for row in self.table() if row.area)
        return f"SegmentationResult({self.size[0]} x {self.size[1]}: {shares or 'none of the labels'})"

    def _repr_html_(self) -> str:
        """The overlay and the table, as notebooks show them."""
        return html.page(self)

    def __getitem__(self, label: str) -> npt.NDArray[np.bool_]:
        """``mask(label)``."""
        return self.mask(label)

    def __contains__(self, label: object) -> bool:
        """Whether ``label`` was asked for, whether or not it won a pixel."""
        return label in self.labels

    def __iter__(self) -> Iterator[str]:
        """The labels, in order."""
        return iter(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        height, width = self.index_map.shape
        return height, width

    def mask(self, label: str) -> npt.NDArray[np.bool_]:
        """(H, W) bool, true where ``label`` won.

        Raises:
            VocabularyError: no such label; the nearest is offered.
        """
        return np.equal(self.index_map, self._index_of(label))

    def pixels(self, label: str) -> int:
        """Number of pixels where ``label`` won; raises VocabularyError as ``mask`` does."""
        return int(np.count_nonzero(self.mask(label)))

    def area(self, label: str) -> float:
        """Share of the image where ``label`` won, in [0, 1]; raises VocabularyError as ``mask`` does."""
        return self.pixels(label) / self.index_map.size

    def table(self) -> list[LabelSummary]:
        """One row per label, in the order of ``labels``; the score is 0 where the label won no pixel."""
        slots = (self.index_map + 1).ravel()  # 0 is none
        counts = np.bincount(slots, minlength=len(self.labels) + 1)[1:]
        sums = np.bincount(slots, weights=self.score_map.ravel(), minlength=len(self.labels) + 1)[1:]
        means = np.clip(sums / np.maximum(counts, 1), 0, 1)
        objects = Counter(each.label for each in self.instances or ())
        return [
            LabelSummary(
                label,
                int(count) / self.index_map.size,
                float(mean),
                self.presence[label],
                objects[label] if label in self.things else None,
            )
            for label, count, mean in zip(self.labels, counts, means, strict=True)
        ]

    @cached_property
    def instance_map(self) -> npt.NDArray[np.int32]:
        """(H, W) int32: at each pixel the number of an object, 1 for the first of ``instances``; 0 for none.

        Where objects overlap, the one with the higher score is seen.
        """
        return paint(self.instances or (), self.size)

    def count(self, label: str) -> int:
        """The number of objects of ``label``.

        Raises:
            VocabularyError: no such label, or none of its objects were looked for.
        """
        self._index_of(label)
        if label not in self.things:
            raise VocabularyError(
                f"no objects of '{label}' were looked for; name it in segment(..., instances=['{label}'])"
            )
        return sum(each.label == label for each in self.instances or ())

    def boxes(self, label: str) -> list[tuple[int, int, int, int]]:
        """x0, y0, x1, y1 in pixels (x1 and y1 not included) of each 8-connected part of ``label``, top down.

        Raises:
            VocabularyError: as ``mask``.
        """
        return boxes(self.mask(label))

    def polygons(self, label: str) -> list[Polygon]:
        """The outline of each 8-connected part of ``label``, top down, with its holes; see ``Polygon``.

        Raises:
            VocabularyError: as ``mask``.
        """
        return polygons(self.mask(label))

    def overlay(self, *, opacity: float = 0.55) -> Image.Image:
        """The photo with the labels in colour, their outlines, and a legend in a strip of its own.

        Objects are outlined and numbered, and counted in the legend.

        Args:
            opacity: of the colours, in [0, 1].

        Raises:
            ShapeError: ``opacity`` is out of range.
        """
        objects = None if self.instances is None else self.instance_map
        return overlay.draw(
            self.index_map,
            self.labels,
            image=self.image,
            opacity=opacity,
            instances=self.instances or (),
            instance_map=objects,
        )

    def without_small(self, min_area: int, *, fill: bool = False) -> SegmentationResult:
        """The result without the objects, and the 8-connected parts of a label, of fewer than ``min_area`` pixels.

        Args:
            min_area: pixels; below 2 nothing changes.
            fill: give these pixels label and score of the nearest pixel outside such parts, in place of none; where
                the image consists of such parts alone, it stays as it is.

        Raises:
            ShapeError: ``min_area`` is negative.
        """
        if min_area < 0:
            raise ShapeError(f"min_area must be at least 0, got {min_area}")
        small = small_parts(self.index_map, min_area=min_area)
        kept = self._with_instances(lambda each: each.area >= min_area)
        if not fill:
            return replace(kept, index_map=np.where(small, np.int32(-1), self.index_map))
        if small.all():
            return kept
        from scipy.ndimage import distance_transform_edt

        nearest = tuple(distance_transform_edt(small, return_distances=False, return_indices=True))
        return replace(kept, index_map=self.index_map[nearest], score_map=self.score_map[nearest])

    def without_unsure(self, min_score: float) -> SegmentationResult:
        """The result without the pixels and objects whose score is below ``min_score``: the pixels become none.

        Raises:
            ShapeError: ``min_score`` is not in [0, 1].
        """
        if not 0 <= min_score <= 1:
            raise ShapeError(f"min_score must be from 0 to 1, got {min_score}")
        kept = self._with_instances(lambda each: each.score >= min_score)
        return replace(kept, index_map=np.where(self.score_map < min_score, np.int32(-1), self.index_map))

    def _with_instances(self, wanted: Callable[[Segment], bool]) -> SegmentationResult:
        if self.instances is None:
            return self
        return replace(self, instances=tuple(filter(wanted, self.instances)))

    def save(self, folder: str | Path, *, name: str = "result", overwrite: bool = False) -> list[Path]:
        """Write ``name.png``, ``name_overlay.png`` and, last, ``name.json``; each whole or not at all.

        The index image has a palette; a pixel's value is its label's position, 255 for none. With more than
        255 labels it is 16-bit grey, 65535 for none. The JSON holds labels, presence, areas, mean scores,
        provenance and palette. ``scores`` and ``image`` are not kept.

        Args:
            folder: made if need be.
            name: what the three files begin with; another one for each image.
            overwrite: also replace what is no result of the same image.

        Returns:
            The paths, in the order of writing.

        Raises:
            OutputError: the folder cannot be written to, ``name`` is no name of a file in it, or files of these
                names are there that are no result of the same image.
        """
        return storage.save(self, Path(folder), name=name, overwrite=overwrite)

    def save_masks(self, folder: str | Path) -> list[Path]:
        """Write a grey PNG for every label, 255 where it won and 0 elsewhere, and ``labels.json``, file to label.

        The folder is for one result: what an earlier one left there, and this one does not have, is removed.

        Returns:
            The pictures, in the order of ``labels``.

        Raises:
            OutputError: the folder cannot be written to, or has other files.
        """
        return masks.save_masks(self, Path(folder))

    def save_crops(self, folder: str | Path, *, padding: int = 0) -> list[Path]:
        """Write each object cut out of the photo, and ``labels.json``, file to label; see ``crops``.

        Returns:
            The pictures, ``001_LABEL.png`` and so on, in the order of ``instances``.

        Raises:
            ShapeError: the result has no photo.
            OutputError: the folder cannot be written to, or has other files.
        """
        return masks.save_crops(self, Path(folder), padding=padding)

    @classmethod
    def load(cls, source: str | Path) -> SegmentationResult:
        """The result that ``save`` wrote, from its folder or its JSON file.

        ``score_map`` comes back as the mean score of each label; ``scores`` and ``image`` are None.

        Raises:
            ImageError: there is no such result, or its files do not fit together.
        """
        return cls(**storage.load(Path(source)))

    def to_rle(self, label: str) -> dict[str, Any]:
        """COCO's compressed run-length encoding of ``mask(label)``: ``size`` [H, W] and ``counts`` as text.

        Raises:
            VocabularyError: no such label; the nearest is offered.
        """
        return encode_mask(self.mask(label))

    def to_coco(self, *, image_id: int = 0, per_component: bool = False) -> dict[str, Any]:
        """A COCO data set of this one image: ``images``, ``annotations`` and ``categories``.

        Args:
            image_id: id of the image; categories and annotations are counted from 1.
            per_component: one annotation for each connected part of a label, instead of one per label. Labels of
                which objects were looked for have one for each object.

        Returns:
            Plain values that fit into JSON; the score of an annotation is the mean of its pixels.
        """
        return coco.to_coco(self, image_id=image_id, per_component=per_component)

    def export(self, format: str, folder: str | Path, *, name: str = "", tolerance: float = TOLERANCE) -> list[str]:
        """Write the result for another program; ``ovseg.result.formats`` writes many.

        Args:
            format: one of ``ovseg.result.formats.FORMATS``: coco, yolo and so on.
            folder: made if need be.
            name: what the files begin with; if empty, the photo's own without its ending, which
                ``provenance["source"]`` says.
            tolerance: pixels that outlines may be off.

        Returns:
            What the format cannot hold, or had to leave out, as sentences.

        Raises:
            OutputError: no such format, the photo is needed and not there, or the folder cannot be written to.
            MissingDependencyError: the format needs a package that is not installed.
        """
        return export(self, format, Path(folder), name=name, tolerance=tolerance)

    def to_panoptic(self, *, image_id: int = 0, min_area: int = 0) -> Panoptic:
        """COCO's panoptic format: each pixel belongs to one object, or to all of what a label covers, or to none.

        Objects are seen as in ``instance_map``; what they leave is given to the labels that are no things.

        Args:
            image_id: id of the image; segments are counted from 1, categories too.
            min_area: pixels that a segment must keep, else its pixels are none's.
        """
        return to_panoptic(self, image_id=image_id, min_area=min_area)

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each label: label, pixels, area, score, presence, objects.

        ``area`` is the share of the image, in [0, 1]; ``objects`` is missing where none were looked for.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        return tables.to_pandas(self)

    def to_supervision(self) -> Any:
        """supervision's Detections: the objects, then all that each label covers of which none were looked for.

        ``class_id`` is the position in ``labels``, ``data["class_name"]`` the label, ``confidence`` the score;
        boxes are as supervision counts them, their last pixels included. Masks are compact where they are many.

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        return tables.to_supervision(self)

    def to_huggingface(self) -> list[dict[str, Any]]:
        """What the pipeline "image-segmentation" of transformers returns: dictionaries of score, label and mask.

        A mask is a grey PIL image, 255 inside and 0 outside; they are of the same as in ``to_supervision``.
        """
        return tables.to_huggingface(self)

    def crops(self, *, padding: int = 0) -> Iterator[Image.Image]:
        """Each object cut out of the photo, RGBA, transparent where the object is not; in order.

        Args:
            padding: pixels around the object's box.

        Raises:
            ShapeError: the result has no photo, as one that was loaded.
        """
        if self.image is None:
            raise ShapeError("expected a result with its photo to cut objects from, got one without; segment again")
        for each in self.instances or ():
            yield cut_out(self.image, each, padding=padding)

    def to_text(self, grid: int | tuple[int, int] = 16) -> str:
        """Semantic descriptors: the winning label of each cell of a grid, row-wise run-length encoded.

        Each line is a row, ``label *count| label *count``; ``others`` stands for none of the labels. Lossless
        at its grid: ``from_text(text).to_text(grid)`` is ``text``. The rows are those of Text4Seg's code, which
        puts a blank before each later row and a line break after the last.

        Args:
            grid: cells per side, or (rows, columns).

        Raises:
            ShapeError: a side of the grid is below 1.

        Source: Lan et al., Text4Seg, ICLR 2025, sections 3.2 and 3.3 (row-wise run-length encoding).
        """
        shape = (grid, grid) if isinstance(grid, int) else grid
        return descriptors.encode(self.index_map, self.labels, grid=shape)

    @classmethod
    def from_text(
        cls, text: str, *, labels: tuple[str, ...] | None = None, size: tuple[int, int] | None = None
    ) -> SegmentationResult:
        """The result that semantic descriptors describe; scores are 1 where a label is, else 0.

        Args:
            text: as ``to_text`` or Text4Seg's code writes it.
            labels: the names to allow, in order; those of the text, by first appearance, if None.
            size: (H, W) to enlarge the grid to; a pixel per cell if None.

        Raises:
            VocabularyError: the text names a label that is not in ``labels``.
            ShapeError: the text is not in this form, or its rows differ in length.
        """
        index_map, names = descriptors.decode(text, labels=labels, size=size)
        return cls(
            index_map=index_map,
            labels=names,
            score_map=(index_map >= 0).astype(np.float32),
            presence={name: float((index_map == index).any()) for index, name in enumerate(names)},
            provenance={"source": "text"},
        )

    def _index_of(self, label: str) -> int:
        if label not in self.labels:
            raise VocabularyError(
                f"no label '{label}' in this result{did_you_mean(str(label), self.labels)} "
                f"It has: {', '.join(self.labels) or 'none'}"
            )
        return self.labels.index(label)


def _check_array(name: str, array: npt.NDArray[Any], *, shape: tuple[int, ...], dtype: str) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ShapeError(f"{name} must be {shape} {dtype}, got {array.shape} {array.dtype}; convert it first")


def _check_range(name: str, array: npt.NDArray[Any], *, low: float, high: float) -> None:
    least, most = array.min(), array.max()
    if not (low <= least and most <= high):  # also true for NaN
        raise ShapeError(f"{name} must have values from {low} to {high}, got {least} to {most}")
