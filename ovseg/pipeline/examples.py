"""Labels that are shown by pictures: the pictures are encoded once, and what they teach changes the logits."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.backends.answers import AnsweringHead, ExemplarHead
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError, SpaceError
from ovseg.examples import METHODS, MeanSight, Shot, Sight, View, teach
from ovseg.examples.positions import position_basis, without_positions
from ovseg.examples.shot import Kind, LazyShots, Lesson, Words
from ovseg.heads.shots import ShotHead
from ovseg.identity import digest
from ovseg.images.geometry import ImageGeometry
from ovseg.models.sections import ExamplesConfig
from ovseg.pipeline.cells import cell_colours, cell_shares, on_grid, with_padding
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.exemplars import shown_here
from ovseg.pipeline.logits import ClassLogits, best_query
from ovseg.pipeline.modifiers import Modifier
from ovseg.pipeline.places import SALIENT, Picture, pictures_of, where_words_agree
from ovseg.pipeline.prompted import drawn_by_sam, odds_of
from ovseg.pipeline.queries import QueryBank
from ovseg.sam.load import sam_mark
from ovseg.vocabulary.labels import Concept

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter

TRAINED = "trained"  # the method of models whose head reads shots
_POINTING: dict[str, Kind] = {"boxes": "box", "points": "point"}
_KEPT = 24  # pictures, some 6 MB each; 14 with what a trained head reads
_LESSONS = 8
_TAUGHT = 100  # pictures of all lessons that stay, some 2.5 MB each where all their cells are compared (INSID3)


@dataclass(frozen=True)
class ExampleEvidence(Modifier):
    """What pictures taught of some labels, as logits.

    Attributes:
        sight: what was learned of M labels.
        rows: (M,) the classes that these labels are; those that have pictures come first.
        labels: names of those that have pictures.
        mark: what pictures, places and method are known by.
        masks: a name of ``ovseg.sam.load_sam``, which then draws where these labels are likely; None for none.
        basis: (C, n) directions of the features that say where a cell is; None to leave them in.
    """

    sight: Sight
    rows: Tensor
    labels: tuple[str, ...]
    mark: str
    masks: str | None = None
    basis: Tensor | None = None

    @property
    def info(self) -> Mapping[str, str]:
        """The content of the pictures, and the method."""
        return {"examples": self.mark}

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that have pictures."""
        return self.labels

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """The logits of these labels by words and sight together, and by the masks of a SAM if one is asked.

        Evidence is shared out as the logits were, what masks say is not.
        """
        words = by_class(logits)
        view = view_of(encoded, words)
        trust, evidence = self.sight(view if self.basis is None else without_positions(view, self.basis))
        evidence = on_grid(evidence, logits.grid)
        doubted = (trust[:, None, None] - 1) * words[self.rows.to(words.device)]
        found = logits.plus(self.rows, doubted + logits.smooth(evidence.to(words)))
        if self.masks is None:
            return found
        shown = self.rows[: len(self.labels)]
        odds = odds_of(by_class(found), shown)
        return found.plus(shown, drawn_by_sam(odds, encoded, model=self.masks, stride=logits.stride))


@dataclass(frozen=True)
class _Taught:
    """A lesson that stays in memory: for which queries, what it taught, and by how many pictures."""

    queries: QueryBank
    evidence: ExampleEvidence
    pictures: int


class ExampleReader:
    """Reads the pictures of concepts with one model; the last ones stay in memory, as do the last lessons.

    Threads may share it; a pickled copy is empty.
    """

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, _Kept] = OrderedDict()
        self._lessons: OrderedDict[str, _Taught] = OrderedDict()
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type[ExampleReader], tuple[()]]:
        return ExampleReader, ()

    def taught(self, segmenter: Segmenter, queries: QueryBank, concepts: Mapping[str, Concept]) -> QueryBank:
        """The queries with what the pictures of ``concepts``, by label, teach besides.

        Raises:
            VocabularyError: a place does not fit its picture; both are named.
            ImageError: a picture cannot be read.
            SpaceError: the model's answers are no sums that sight could be added to.
        """
        if isinstance(segmenter.model.head, ExemplarHead):
            return shown_here(segmenter, queries, concepts)
        _refuse_unfit(segmenter)
        mark, info = lesson_mark(concepts, segmenter.config.examples), segmenter.model.info
        # the queries are kept as well, so that no others can have their number
        key = f"{id(queries)} {info['features']} {info['settings']} {mark}"
        with self._lock:
            if key not in self._lessons:
                learned = self._learned(segmenter, queries, concepts, mark)
                count = sum(len(concept.images) for concept in concepts.values())
                _keep(self._lessons, key, _Taught(queries, learned, count), most=_LESSONS)
                while len(self._lessons) > 1 and sum(each.pictures for each in self._lessons.values()) > _TAUGHT:
                    self._lessons.popitem(last=False)
            evidence = self._lessons[key].evidence
        return replace(queries, modifiers=(*queries.modifiers, evidence))

    @torch.inference_mode()
    def _learned(
        self,
        segmenter: Segmenter,
        queries: QueryBank,
        concepts: Mapping[str, Concept],
        mark: str,
    ) -> ExampleEvidence:
        labels = tuple(concepts)
        pictures = [(number, each) for number, label in enumerate(labels) for each in pictures_of(concepts[label])]
        chosen = segmenter.config.examples
        basis = _positions(segmenter, chosen.positions) if chosen.positions else None
        rows = torch.tensor([queries.vocabulary.labels.index(label) for label in labels], dtype=torch.int64)
        named = torch.tensor([concepts[label].use_name for label in labels], dtype=torch.bool)
        alone = len(labels) == 1 and all(each.kind == SALIENT for _, each in pictures)
        asked = int(rows[0]) if alone and bool(named[0]) else None
        shots = _Shots(partial(self._seen, segmenter), segmenter, queries, pictures, basis, alone, asked)
        lesson = Lesson(shots, rows, named)
        by_method = partial(teach, lesson, fusion=chosen.fusion)
        sight: Sight
        if chosen.method == TRAINED:
            widened = with_words(lesson, queries)
            sight, rows = shot_head(segmenter).learn(widened), widened.rows
        else:
            sight = by_method(method=chosen.method)
        if chosen.beside is not None and labels:
            sight = MeanSight(sight, by_method(method=chosen.beside))
        return ExampleEvidence(sight, rows, labels, mark, chosen.masks, basis)

    def _seen(self, segmenter: Segmenter, picture: Picture) -> _Kept:
        """A picture encoded, with the share of each cell that shows the label."""
        cut_out = segmenter.config.examples.cut_out
        key = f"{segmenter.model.info['features']} {picture.mark} {cut_out}"
        found = self._pictures.get(key)
        if found is None:
            (encoded,) = segmenter.encode_batch([picture.pixels])
            mask = picture.mask_in(encoded, sam=segmenter.config.objects.best.masks if cut_out else None)
            kind = "mask" if cut_out else _POINTING.get(picture.kind, "mask")
            found = _Kept.of(encoded, mask, picture.window(encoded.geometry.original), kind)
        _keep(self._pictures, key, found, most=_KEPT)
        return found


@dataclass(frozen=True)
class _Shots(LazyShots):
    """The shots of all labels, each encoded and brought to full size when it is looked at: a hundred stay small.

    Attributes:
        see: encodes a picture.
        segmenter, queries: say what words find in it.
        pictures: with the number of the label that each shows.
        basis: directions that say where a cell is, which are taken out; None to leave them in.
        alone: whether only one label is shown, and no picture says where it is not.
        asked: the row of that label; None for one without a name.
    """

    see: Callable[[Picture], _Kept]
    segmenter: Segmenter
    queries: QueryBank
    pictures: Sequence[tuple[int, Picture]]
    basis: Tensor | None = None
    alone: bool = False
    asked: int | None = None

    @property
    def labels(self) -> list[int]:
        """See ``LazyShots``."""
        return [label for label, _ in self.pictures]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: Any) -> Any:
        label, picture = self.pictures[place]
        kept = self.see(picture)
        words = by_class(self.segmenter.plain_logits(kept.encoded(), self.queries))
        view = kept.view(words)
        view = view if self.basis is None else without_positions(view, self.basis)
        if self.alone:
            share, elsewhere = where_words_agree(kept.share, view.text, self.asked)
            return Shot(view, label, share, kept.kind, rest_known=False, elsewhere=elsewhere)
        return Shot(view, label, kept.share, kept.kind, rest_known=picture.kind != SALIENT)


@dataclass(frozen=True)
class _Kept:
    """A picture of a concept in half precision, without its pixels.

    Attributes:
        features, geometry, vector: of all of it.
        known: rows and columns of the cells that were looked at.
        colours, share: of these cells.
        kind: what points at the concept.
    """

    features: DenseFeatures
    geometry: ImageGeometry
    known: tuple[slice, slice]
    colours: Tensor
    share: Tensor
    kind: Kind
    vector: Tensor | None

    @classmethod
    def of(
        cls, encoded: EncodedImage, mask: npt.NDArray[np.bool_], window: tuple[slice, slice], kind: Kind
    ) -> _Kept:
        """The picture with its mask, (H, W), of which the pixels in ``window`` are known."""
        assert isinstance(encoded.geometry, ImageGeometry)
        down, across = window
        box = (down.start, across.start, down.stop, across.stop)
        known = encoded.geometry.block(box, stride=encoded.features.stride)
        share = cell_shares(torch.from_numpy(mask)[None].float(), encoded)[0]
        share = (share > 0).float() if kind == "point" else share  # a cell is no smaller than a point
        features = _halved(encoded.features, torch.float16)
        colours = cell_colours(encoded)[:, *known]
        return cls(features, encoded.geometry, known, colours, share[known], kind, encoded.vector)

    def encoded(self) -> EncodedImage:
        """As it was encoded; its image is blank, as nothing looks at it."""
        blank = np.zeros((*self.geometry.original, 3), np.uint8)
        return EncodedImage(blank, _halved(self.features, torch.float32), self.geometry, self.vector)

    def view(self, words: Tensor) -> View:
        """As methods see it: the cells that were looked at, none of the padding among them."""
        rows, columns = self.known
        features = _halved(self.features, torch.float32)
        structure = None if features.structure is None else features.structure[0, :, rows, columns]
        words = on_grid(words, features.grid)[:, rows, columns]
        unit = functional.normalize(features.values[0], dim=0)[:, rows, columns]
        inputs = None if features.inputs is None else features.inputs[0, :, rows, columns].cpu()
        return View(unit.cpu(), words.cpu(), self.colours, structure, inputs)


def view_of(encoded: EncodedImage, words: Tensor) -> View:
    """An image to be segmented as methods see it, padding included.

    Args:
        encoded: the image.
        words: (K, h', w') logits of all classes by words.
    """

    def colours() -> Tensor:
        return with_padding(cell_colours(encoded), encoded)

    return view_from(encoded.features, words, encoded.once("colours of cells", colours))


def view_from(features: DenseFeatures, words: Tensor, colours: Tensor) -> View:
    """Features of one image as methods see them, with logits by words and colours (3, h, w)."""
    unit = functional.normalize(features.values[0].float(), dim=0)
    structure, inputs = (
        None if maps is None else maps[0].float() for maps in (features.structure, features.inputs)
    )
    return View(unit, on_grid(words, features.grid), colours.to(unit), structure, inputs)


def _positions(segmenter: Segmenter, count: int) -> Tensor:
    """What a black picture, as large as the model's input, says of places."""
    side = segmenter.config.input.short_side
    encoded = segmenter.encode(np.zeros((side, side, 3), np.uint8))
    return position_basis(encoded.features.values[0], count)


def shot_head(segmenter: Segmenter) -> ShotHead:
    """The head of a model, which was trained to read shots.

    Raises:
        ConfigError: the model has no such head.
    """
    head = segmenter.model.head
    if not isinstance(head, ShotHead):
        raise ConfigError(
            f"examples: method '{TRAINED}' needs a model with a head that was trained to read them, got "
            f"'{segmenter.config.name}'; ovseg train few-shot, or choose another method: {', '.join(METHODS)}"
        )
    return head


def judges_words(segmenter: Segmenter) -> bool:
    """Whether labels without pictures, too, are judged by a trained head."""
    return segmenter.config.examples.method == TRAINED and shot_head(segmenter).judges_words


def with_words(lesson: Lesson, queries: QueryBank) -> Lesson:
    """The lesson with all other classes, which nothing shows, and the phrases of all."""
    others = torch.tensor(
        [row for row in range(queries.classes) if row not in lesson.rows.tolist()], dtype=torch.int64
    )
    rows = torch.cat([lesson.rows, others])
    named = torch.cat([lesson.named, torch.ones(len(others), dtype=torch.bool)])
    words = Words(queries.embeddings, rows.argsort()[queries.class_of_query.cpu()])
    return Lesson(lesson.shots, rows, named, words)


def by_class(logits: ClassLogits) -> Tensor:
    """(K, h, w) logits of the classes, whatever the rows are."""
    if logits.class_of_row is None:
        return logits.values
    flat = best_query(logits.values.flatten(1), logits.class_of_row, classes=logits.queries.classes)
    return flat.view(-1, *logits.grid)


def lesson_mark(concepts: Mapping[str, Concept], chosen: ExamplesConfig) -> str:
    """What a lesson is known by: the pictures of concepts, by label, and how they are learned from."""
    drawn = () if chosen.masks is None else (sam_mark(chosen.masks),)
    return digest(examples_mark(concepts), chosen.model_dump(), *drawn)


def examples_mark(concepts: Mapping[str, Concept]) -> str:
    """What the pictures of concepts, by label, are known by: their content and places, without decoding a file."""
    asked = {
        label: [concept.use_name, *(picture.mark for picture in pictures_of(concept))]
        for label, concept in concepts.items()
    }
    return digest(asked)


def _refuse_unfit(segmenter: Segmenter) -> None:
    name = segmenter.config.name
    if isinstance(segmenter.model.head, AnsweringHead):
        raise SpaceError(
            f"images of a concept need a model that gives features to compare, got '{name}', which answers with "
            "masks; leave out images, or use another model"
        )
    if segmenter.config.input.splice == "pixels":
        raise SpaceError(
            f"images of a concept need cells on one grid, which '{name}' has not (input.splice 'pixels'); use a "
            "model file without '-paper'"
        )


def _halved(features: DenseFeatures, dtype: torch.dtype) -> DenseFeatures:
    optional: dict[str, Any] = {name: getattr(features, name) for name in ("structure", "inputs", "whole")}
    changed: dict[str, Any] = {name: part.to(dtype) for name, part in optional.items() if part is not None}
    return replace(features, values=features.values.to(dtype), **changed)


def _keep(kept: OrderedDict[str, Any], key: str, value: Any, *, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
