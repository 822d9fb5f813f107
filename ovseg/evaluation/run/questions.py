"""Asking a segmenter: from classes to labels, and from its label indices back to classes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ConfigError, ShapeError
from ovseg.evaluation.data.examples import Example
from ovseg.evaluation.data.protocol import Protocol
from ovseg.evaluation.metrics.confusion import NONE


@dataclass(frozen=True)
class Question:
    """The labels of one call and what each stands for.

    Attributes:
        labels: strings or ``ovseg.vocabulary.Concept`` objects, as the segmenter gets them.
        class_of_label: (labels + 1,) int32 class index of each label; the last entry is what -1 becomes.
    """

    labels: list[Any]
    class_of_label: NDArray[np.int32]


@dataclass(frozen=True)
class Answer:
    """What a segmenter said about one image, in class indices.

    Attributes:
        prediction: (H, W) int32 class indices, -1 none.
        confidence: (H, W) float32 in [0, 1], or None where the segmenter gives no such map.
        claimed: class indices whose presence score is above one half; None where it gives no presence.
        seconds: time inside the segmenter.
    """

    prediction: NDArray[np.int32]
    confidence: NDArray[np.float32] | None
    claimed: tuple[int, ...] | None
    seconds: float


@dataclass
class Asker:
    """A segmenter under a protocol: it is asked for classes and answers in classes.

    ``background`` and the knobs of a setting are passed only where ``segmenter.segment`` takes such
    a keyword; ``not_applied`` lists the knobs that it does not take.
    """

    segmenter: Any
    protocol: Protocol
    knobs: dict[str, Any] = field(default_factory=dict)
    synonyms: bool = True
    rename: Any = None  # callable str -> str on every prompt (paraphrases); None: as the protocol says
    _questions: dict[tuple[int, ...], Question] = field(default_factory=dict)

    def __post_init__(self) -> None:
        segment = getattr(self.segmenter, "segment", None)
        if not callable(segment):
            raise ConfigError(
                f"a segmenter needs a method segment(image, labels), got {type(self.segmenter).__name__}; "
                "load one with ovseg.load('mini')"
            )
        self.takes_background = "background" in taken(segment, {"background": None})
        self.applied = taken(segment, self.knobs)
        self.not_applied = sorted(set(self.knobs) - set(self.applied))

    def ask(self, example: Example, candidates: Sequence[int]) -> Answer:
        """The segmenter's answer for one example.

        Raises:
            ShapeError: the answer is not an integer map of the image's size over the labels asked for.
        """
        question = self.question(tuple(candidates), example=example)
        started = time.perf_counter()
        result = self.segmenter.segment(example.image, question.labels, **self._keywords())
        seconds = time.perf_counter() - started
        return self.read(result, question, example=example, seconds=seconds)

    def ask_batch(self, examples: Sequence[Example], candidates: Sequence[int]) -> list[Answer]:
        """Answers for several examples with the same labels, by ``segment_batch`` where there is one."""
        batch = getattr(self.segmenter, "segment_batch", None)
        alone = len(examples) == 1 or any(example.supports for example in examples)
        if alone or not callable(batch):
            return [self.ask(example, candidates) for example in examples]
        question = self.question(tuple(candidates))
        started = time.perf_counter()
        keywords = taken(batch, self._keywords())
        results = list(batch([example.image for example in examples], question.labels, **keywords))
        seconds = (time.perf_counter() - started) / len(examples)
        if len(results) != len(examples):
            raise ShapeError(f"segment_batch must give {len(examples)} results, got {len(results)}")
        return [
            self.read(result, question, example=example, seconds=seconds)
            for result, example in zip(results, examples, strict=True)
        ]

    def question(self, candidates: tuple[int, ...], *, example: Example | None = None) -> Question:
        """The labels for ``candidates``; made once per set of candidates, but for visual examples."""
        if example is not None and example.supports:
            return self._make_question(candidates, example)
        if candidates not in self._questions:
            self._questions[candidates] = self._make_question(candidates, None)
        return self._questions[candidates]

    def read(self, result: Any, question: Question, *, example: Example, seconds: float) -> Answer:
        """``result`` of the segmenter, checked and turned into class indices."""
        index_map = _checked_map(result, question, example)
        scores = _as_numpy(getattr(result, "score_map", None))
        in_range = scores is not None and scores.shape == index_map.shape and _within_unit(scores)
        return Answer(
            prediction=question.class_of_label[index_map],
            confidence=scores.astype(np.float32, copy=False) if in_range and scores is not None else None,
            claimed=_claimed(getattr(result, "presence", None), question),
            seconds=seconds,
        )

    def _keywords(self) -> dict[str, Any]:
        keywords = dict(self.applied)
        if self.takes_background:
            phrases = self.protocol.background.phrases
            keywords["background"] = list(phrases) if isinstance(phrases, tuple) else phrases
        return keywords

    def _make_question(self, candidates: tuple[int, ...], example: Example | None) -> Question:
        none = self.protocol.background_index
        none = NONE if none is None else none
        labels: list[Any] = []
        classes: list[int] = []
        for index in candidates:
            supports = example.supports.get(index, ()) if example is not None else ()
            for label in self._labels_of(index, supports):
                labels.append(label)
                classes.append(index)
        phrases = self.protocol.background.phrases
        if isinstance(phrases, tuple) and not self.takes_background:
            labels += phrases
            classes += [none] * len(phrases)
        return Question(labels, np.asarray([*classes, none], np.int32))

    def _labels_of(self, index: int, supports: Sequence[Any]) -> list[Any]:
        entry = self.protocol.classes[index]
        rename = self.rename or (lambda text: text)
        prompt = rename(entry.prompt or entry.name)
        synonyms = tuple(rename(text) for text in entry.synonyms) if self.synonyms else ()
        if not synonyms and not supports:
            return [prompt]
        if self.protocol.label_form == "strings":
            return [prompt, *synonyms]
        from ovseg.vocabulary.labels import Concept

        images, masks = tuple(item.image for item in supports), tuple(item.mask for item in supports)
        return [Concept(prompt, synonyms=synonyms, images=images, masks=masks)]


def taken(function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Those of ``keywords`` that ``function`` takes; none where it does not say what it takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(keywords)
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in keywords.items() if key in by_name}


def _checked_map(result: Any, question: Question, example: Example) -> NDArray[np.integer[Any]]:
    index_map = _as_numpy(getattr(result, "index_map", None))
    wanted = example.truth.shape
    if index_map is None or index_map.shape != wanted:
        came = "no index_map" if index_map is None else f"{index_map.shape}"
        raise ShapeError(
            f"the segmenter must return an index_map of the image's size {wanted} (H, W), "
            f"got {came} for '{example.name}'; restore the map to the original size first"
        )
    if index_map.dtype.kind not in "iu":
        raise ShapeError(f"index_map must hold integers, got dtype {index_map.dtype}")
    if index_map.size and (index_map.min() < NONE or index_map.max() >= len(question.labels)):
        raise ShapeError(
            f"index_map must be in [-1, {len(question.labels)}), the labels asked for, "
            f"got {index_map.min()} to {index_map.max()} for '{example.name}'"
        )
    return index_map.astype(np.int32, copy=False)


def _claimed(presence: Any, question: Question) -> tuple[int, ...] | None:
    if presence is None or len(presence) == 0:
        return None
    names = [label if isinstance(label, str) else label.label for label in question.labels]
    try:
        scores = [presence[name] for name in names] if hasattr(presence, "keys") else list(presence)
    except KeyError:
        return None  # the presence speaks of other labels than those asked for
    return tuple(sorted({int(c) for c, s in zip(question.class_of_label, scores, strict=False) if s > 0.5}))


def _within_unit(scores: NDArray[Any]) -> bool:
    return bool(scores.size and scores.dtype.kind == "f" and scores.min() >= 0 and scores.max() <= 1)


def _as_numpy(values: Any) -> NDArray[Any] | None:
    """``values`` as an array; a tensor may be on another device or need a gradient."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return None if values is None else np.asarray(values)
