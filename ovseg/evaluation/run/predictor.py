"""From class indices to the labels that a segmenter gets, and from its index map back to class indices."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ConfigError, DatasetError, ShapeError
from ovseg.evaluation.data.examples import Example, Support
from ovseg.evaluation.data.protocol import Protocol
from ovseg.evaluation.metrics.confusion import NONE
from ovseg.evaluation.metrics.objects import FoundObject
from ovseg.evaluation.metrics.panoptic import Segments
from ovseg.evaluation.run.objects import as_numpy, found_objects, found_segments

PRESENT = 0.5  # presence score above which a segmenter says that a label is in the image


@dataclass(frozen=True)
class CandidateLabels:
    """The labels of one call and the class that each stands for.

    Attributes:
        labels: strings or ``ovseg.vocabulary.Concept`` objects.
        asked: what the segmenter gets: the labels, or a vocabulary in which they stand for phrases of a paper.
        class_of_label: (labels + 1,) int32 class index of each label; the last entry is what -1 becomes.
    """

    labels: list[Any]
    class_of_label: NDArray[np.int32]
    asked: Any = None

    def __post_init__(self) -> None:
        if self.asked is None:
            object.__setattr__(self, "asked", self.labels)

    @property
    def names(self) -> list[str]:
        """The label of each, as a result names it."""
        return [label if isinstance(label, str) else label.label for label in self.labels]


@dataclass(frozen=True)
class Prediction:
    """What a segmenter predicts for one image, in class indices.

    Attributes:
        classes: (H, W) int32 class indices, -1 none.
        confidence: (H, W) float32 in [0, 1], or None where the segmenter gives no such map.
        claimed: sorted class indices whose presence score is above one half; None where it gives no presence.
        seconds: time inside the segmenter.
        objects: the objects, where the protocol has some.
        segments: the panoptic map, where the protocol has one.
        graded: (H, W) in [0, 1] how much each pixel stands out, where the protocol wants it and the segmenter says.
    """

    classes: NDArray[np.int32]
    confidence: NDArray[np.float32] | None
    claimed: tuple[int, ...] | None
    seconds: float
    objects: tuple[FoundObject, ...] = ()
    segments: Segments | None = None
    graded: NDArray[np.float32] | None = None


@dataclass
class Predictor:
    """A segmenter under a protocol: it gets the labels of classes and predicts classes, and objects of the things.

    Anything with ``segment(image, labels)`` can be the segmenter. ``background`` is passed where ``segment`` takes
    it by name or by ``**options``. A segmenter with ``words``, the phrases that a paper asks each class of the
    benchmark by, is asked by them; otherwise the protocol says how its classes are put into words.

    Attributes:
        segmenter: what is called.
        protocol: what it is evaluated on.
        synonyms: whether synonyms are given as well.
        rewrite: changes every prompt (paraphrases); None leaves them as the protocol has them.
        quality: passed to ``segment`` where it takes it; None passes nothing.
        names: whether classes with visual examples are asked by their words as well.
    """

    segmenter: Any
    protocol: Protocol
    synonyms: bool = True
    rewrite: Callable[[str], str] | None = None
    quality: str | None = None
    names: bool = True
    _labels: dict[tuple[int, ...], CandidateLabels] = field(default_factory=dict)

    def __post_init__(self) -> None:
        segment = getattr(self.segmenter, "segment", None)
        if not callable(segment):
            raise ConfigError(
                f"a segmenter needs a method segment(image, labels), got {type(self.segmenter).__name__}; "
                "load one with ovseg.load('mini')"
            )
        self.takes_background = "background" in taken(segment, {"background": None})
        if self.protocol.objects is not None and not taken(segment, {"instances": None}):
            raise ConfigError(
                f"'{self.protocol.name}' counts objects: a segmenter needs segment(image, labels, instances=[...]) "
                f"whose result has instances, got {type(self.segmenter).__name__}"
            )
        self.words = getattr(self.segmenter, "words", None)
        if self.words is not None and len(self.words) != len(self.protocol.classes):
            raise ConfigError(
                f"the model's word list must name the {len(self.protocol.classes)} classes of "
                f"'{self.protocol.name}', got {len(self.words)}; use the setting 'shared'"
            )

    def predict(self, example: Example, candidates: Sequence[int]) -> Prediction:
        """The segmenter's prediction for one example.

        Raises:
            ShapeError: it is not an integer map of the image's size over the labels it was given.
        """
        chosen = self.labels_for(tuple(candidates), example=example)
        started = time.perf_counter()
        result = self.segmenter.segment(example.image, chosen.asked, **self._keywords(chosen))
        seconds = time.perf_counter() - started
        return self._read(result, chosen, example=example, seconds=seconds)

    def predict_batch(self, examples: Sequence[Example], candidates: Sequence[int]) -> list[Prediction]:
        """Predictions for several examples with the same labels, by ``segment_batch`` where there is one."""
        batch = getattr(self.segmenter, "segment_batch", None)
        alone = len(examples) == 1 or any(example.supports for example in examples)
        if alone or not callable(batch) or (self.protocol.objects and not taken(batch, {"instances": None})):
            return [self.predict(example, candidates) for example in examples]
        chosen = self.labels_for(tuple(candidates))
        started = time.perf_counter()
        keywords = taken(batch, self._keywords(chosen))
        results = list(batch([example.image for example in examples], chosen.asked, **keywords))
        seconds = (time.perf_counter() - started) / len(examples)
        if len(results) != len(examples):
            raise ShapeError(f"segment_batch must give {len(examples)} results, got {len(results)}")
        return [
            self._read(result, chosen, example=example, seconds=seconds)
            for result, example in zip(results, examples, strict=True)
        ]

    def labels_for(self, candidates: tuple[int, ...], *, example: Example | None = None) -> CandidateLabels:
        """The labels of the classes ``candidates``; made once for each set of them, but for visual examples."""
        if example is not None and example.supports:
            _refuse_leak(example, candidates)
            return self._make_labels(candidates, example.supports)
        if candidates not in self._labels:
            self._labels[candidates] = self._make_labels(candidates, {})
        return self._labels[candidates]

    def _read(self, result: Any, chosen: CandidateLabels, *, example: Example, seconds: float) -> Prediction:
        """``read_result`` with the objects that the protocol counts."""
        found = read_result(result, chosen, example=example, seconds=seconds)
        if self.protocol.saliency:
            return replace(found, graded=_graded(result, chosen, background=self.protocol.background_index))
        if self.protocol.objects is None:
            return found
        class_of = dict(zip(chosen.names, chosen.class_of_label.tolist(), strict=False))
        objects = found_objects(result, class_of, example=example)
        if self.protocol.objects == "instances":
            return replace(found, objects=objects)
        things = self.protocol.things
        return replace(
            found,
            objects=objects,
            segments=found_segments(result, found.classes, objects, things=things, example=example),
        )

    def _keywords(self, chosen: CandidateLabels) -> dict[str, Any]:
        """What ``segment`` gets besides image and labels, of what it takes."""
        keywords = self._background()
        if self.protocol.objects is not None:
            pairs = zip(chosen.names, chosen.class_of_label.tolist(), strict=False)
            keywords["instances"] = [name for name, index in pairs if index in self.protocol.things] or False
        further: dict[str, Any] = {} if self.quality is None else {"quality": self.quality}
        if self.protocol.saliency:
            further["keep_scores"] = True
        return keywords | taken(self.segmenter.segment, further)

    def _background(self) -> dict[str, Any]:
        if not self.takes_background:
            return {}
        phrases = self.protocol.background.phrases
        if self.words is not None and self.protocol.background_index is not None:
            phrases = self.words[self.protocol.background_index]
        return {"background": list(phrases) if isinstance(phrases, tuple) else phrases}

    def _make_labels(
        self, candidates: tuple[int, ...], supports: dict[int, tuple[Support, ...]]
    ) -> CandidateLabels:
        background = self.protocol.background_index
        none = NONE if background is None else background
        if self.words is not None:
            return self._in_words(self.words, candidates, none)
        pairs = [
            (label, index) for index in candidates for label in self._labels_of(index, supports.get(index, ()))
        ]
        phrases = self.protocol.background.phrases
        if isinstance(phrases, tuple) and not self.takes_background:
            pairs += [(phrase, none) for phrase in phrases]
        classes = [index for _, index in pairs]
        return CandidateLabels([label for label, _ in pairs], np.asarray([*classes, none], np.int32))

    def _in_words(self, words: Sequence[Sequence[str]], candidates: tuple[int, ...], none: int) -> CandidateLabels:
        from ovseg.vocabulary.labels import Vocabulary

        names, rewrite = [self.protocol.names[index] for index in candidates], self.rewrite or str
        asked = Vocabulary(
            labels=tuple(names),
            phrases=tuple(tuple(rewrite(phrase) for phrase in words[index]) for index in candidates),
            contrasts=((),) * len(names),
            background=(),
            weights=(1.0,) * len(names),
            raw=True,
        )
        return CandidateLabels(list(names), np.asarray([*candidates, none], np.int32), asked)

    def _labels_of(self, index: int, supports: Sequence[Support]) -> list[Any]:
        entry = self.protocol.classes[index]
        rewrite = self.rewrite or (lambda text: text)
        prompt = rewrite(entry.prompt or entry.name)
        synonyms = tuple(rewrite(text) for text in entry.synonyms) if self.synonyms else ()
        if self.protocol.label_form == "strings":
            return [prompt, *synonyms]
        from ovseg.vocabulary.labels import Concept, is_one_label

        if not synonyms and not supports and is_one_label(prompt):
            return [prompt]

        images, masks = tuple(item.image for item in supports), tuple(item.mask for item in supports)
        named = self.names or not supports
        return [Concept(prompt, synonyms=synonyms, images=images, masks=masks, use_name=named)]


def _refuse_leak(example: Example, candidates: Sequence[int]) -> None:
    """Refuse an image that is its own visual example."""
    for index in candidates:
        for support in example.supports.get(index, ()):
            if support.image.shape == example.image.shape and np.array_equal(support.image, example.image):
                raise DatasetError(
                    f"'{example.name}' is one of its own visual examples, so its truth would leak; draw others"
                )


def taken(function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Those of ``keywords`` that ``function`` takes; none where it does not say what it takes.

    Args:
        function: what will be called.
        keywords: what it may get.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(keywords)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in keywords.items() if key in named}


def read_result(result: Any, chosen: CandidateLabels, *, example: Example, seconds: float) -> Prediction:
    """The ``result`` of a segmenter, checked and turned into class indices.

    Raises:
        ShapeError: its ``index_map`` is not an integer map of the image's size over the labels it was given.
    """
    index_map = _checked_map(result, chosen, example)
    scores = as_numpy(getattr(result, "score_map", None))
    in_range = scores is not None and scores.shape == index_map.shape and _within_unit(scores)
    return Prediction(
        classes=chosen.class_of_label[index_map],
        confidence=scores.astype(np.float32, copy=False) if in_range and scores is not None else None,
        claimed=_claimed(getattr(result, "presence", None), chosen),
        seconds=seconds,
    )


def _checked_map(result: Any, chosen: CandidateLabels, example: Example) -> NDArray[np.integer[Any]]:
    index_map = as_numpy(getattr(result, "index_map", None))
    wanted = example.truth.shape
    if index_map is None or index_map.shape != wanted:
        came = "no index_map" if index_map is None else f"{index_map.shape}"
        raise ShapeError(
            f"the segmenter must return an index_map of the image's size {wanted} (H, W), "
            f"got {came} for '{example.name}'; restore the map to the original size first"
        )
    if index_map.dtype.kind not in "iu":
        raise ShapeError(f"index_map must hold integers, got dtype {index_map.dtype}")
    if index_map.size and (index_map.min() < NONE or index_map.max() >= len(chosen.labels)):
        raise ShapeError(
            f"index_map must be in [-1, {len(chosen.labels)}), the labels it was given, "
            f"got {index_map.min()} to {index_map.max()} for '{example.name}'"
        )
    return index_map.astype(np.int32, copy=False)


def _graded(result: Any, chosen: CandidateLabels, *, background: int | None) -> NDArray[np.float32] | None:
    """The highest score of a label of the object at each pixel; None where the segmenter gives no scores."""
    scores = as_numpy(getattr(result, "scores", None))
    ours = np.flatnonzero(chosen.class_of_label[: len(chosen.labels)] != background)
    if scores is None or scores.ndim != 3 or len(scores) != len(chosen.labels) or not len(ours):
        return None
    graded: NDArray[np.float32] = np.clip(scores[ours].max(0).astype(np.float32), 0, 1)
    return graded


def _claimed(presence: Any, chosen: CandidateLabels) -> tuple[int, ...] | None:
    if presence is None or len(presence) == 0:
        return None
    try:
        scores = [presence[name] for name in chosen.names] if hasattr(presence, "keys") else list(presence)
    except KeyError:
        return None  # the presence speaks of other labels than those it was given
    pairs = zip(chosen.class_of_label, scores, strict=False)
    return tuple(sorted({int(index) for index, score in pairs if score > PRESENT}))


def _within_unit(scores: NDArray[Any]) -> bool:
    return bool(scores.size and scores.dtype.kind == "f" and scores.min() >= 0 and scores.max() <= 1)
