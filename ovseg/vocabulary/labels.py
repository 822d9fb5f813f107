"""What to look for: labels, their synonyms, and the background that competes with them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ovseg.errors import VocabularyError, did_you_mean
from ovseg.vocabulary.background import names_background, unrelated_background
from ovseg.vocabulary.shown import PICTURES, check_shown
from ovseg.vocabulary.spellings import phrase_for_encoder
from ovseg.vocabulary.things import is_thing

MAX_PHRASE_LENGTH = 500
_SEPARATOR = re.compile(r"[,;|]|(?<!\S)\.(?!\S)")

Background: TypeAlias = Literal["auto"] | Sequence[str] | None
"""What a pixel may be besides the labels: the model's own contrasts, your phrases, or nothing."""


@dataclass(frozen=True)
class Concept:
    """A label with more to go by than its name; accepted wherever a label string is.

    Attributes:
        label: the name in the results.
        synonyms: further phrases for the same thing; the best one counts.
        not_: phrases for what it must not be confused with.
        images: pictures that show it, each anything that ``segment`` takes.
        masks: per image where it is: a mask (H, W), 0 or false where it is not, as an array or an image file.
        boxes: per image a box x0, y0, x1, y1 in pixels around it, in place of ``masks``; a SAM cuts it out.
        points: per image one (x, y) on it or several, in place of ``masks``; a SAM cuts it out. Without masks,
            boxes and points, what stands out most in each image is taken.
        within: per image the box x0, y0, x1, y1 in pixels that was looked at, or None for all of it; whether the
            rest of the image shows it is unknown. Empty for all of every image.
        not_images: pictures that do not show it.
        not_boxes: per entry of ``not_images`` the box x0, y0, x1, y1 in pixels that does not show it, or None for
            all of it; whether the rest of that image shows it is unknown. Empty for all of every image.
        use_name: whether the words count besides the pictures.
        weight: factor on the label's odds against every other class; finite and above 0.
        thing: whether it has objects to count (True) or only an area (False); None asks
            ``prompts/vocabularies/things.yaml``.

    Raises:
        VocabularyError: a phrase is not usable, stands for the label and against it, ``weight`` is wrong, or
            pictures and places do not fit together.
    """

    label: str
    synonyms: tuple[str, ...] = ()
    not_: tuple[str, ...] = ()
    images: tuple[Any, ...] = ()
    masks: tuple[Any, ...] = ()
    weight: float = 1.0
    thing: bool | None = None
    boxes: tuple[Any, ...] = ()
    points: tuple[Any, ...] = ()
    within: tuple[Any, ...] = ()
    not_images: tuple[Any, ...] = ()
    use_name: bool = True
    not_boxes: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", check_phrase(self.label, where="the label of a concept"))
        where = f"concept '{self.label}'"
        for name in ("synonyms", "not_"):
            phrases = _checked_list(getattr(self, name), where=f"{name} of {where}")
            object.__setattr__(self, name, tuple(phrases))
        self._refuse_contrasts_with_itself()
        for name in PICTURES:
            object.__setattr__(self, name, _as_tuple(getattr(self, name), where=f"{name} of {where}"))
        if not (isinstance(self.weight, int | float) and math.isfinite(self.weight) and self.weight > 0):
            raise VocabularyError(
                f"the weight of {where} must be finite and above 0, got {self.weight!r}; 1.0 is neutral"
            )
        check_shown(self)

    def _refuse_contrasts_with_itself(self) -> None:
        own = {_spelled_alike(phrase) for phrase in (self.label, *self.synonyms)}
        for phrase in self.not_:
            if _spelled_alike(phrase) in own:
                raise VocabularyError(
                    f"not_ of concept '{self.label}' must be other things, got '{phrase}', which is the label or a "
                    "synonym; remove it there"
                )


@dataclass(frozen=True)
class Vocabulary:
    """L labels and the phrases that stand for them; made with ``Vocabulary.of``.

    Attributes:
        labels: L names, all different up to case.
        phrases: per label at least one phrase; the label itself comes first.
        contrasts: per label the phrases that it must not be confused with.
        background: phrases for everything that is none of the labels.
        weights: per label a factor on its odds.
        raw: whether the text encoder gets the phrases as they are written, without the spellings of data sets put
            into plain English.
        thing: per label whether it is a thing, None where the list of things decides; empty leaves all to it.
        nameless: those of the labels whose phrases say nothing of them (``Concept.use_name``).

    Raises:
        VocabularyError: empty, of unequal lengths, or with an entry that cannot be used.
    """

    labels: tuple[str, ...]
    phrases: tuple[tuple[str, ...], ...]
    contrasts: tuple[tuple[str, ...], ...]
    background: tuple[str, ...]
    weights: tuple[float, ...]
    raw: bool = False
    thing: tuple[bool | None, ...] = ()
    nameless: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.labels:
            raise VocabularyError("a vocabulary needs at least one label, got an empty list; name what to find")
        _refuse_duplicates(self.labels)
        thing = self.thing or (None,) * len(self.labels)
        object.__setattr__(self, "thing", tuple(thing))
        lengths = [len(each) for each in (self.phrases, self.contrasts, self.weights, thing)]
        if set(lengths) != {len(self.labels)}:
            raise VocabularyError(
                f"phrases, contrasts, weights and thing must have one entry for each of {len(self.labels)} labels, "
                f"got {', '.join(map(str, lengths))}; use Vocabulary.of"
            )
        for label, phrases in zip(self.labels, self.phrases, strict=True):
            if not phrases:
                raise VocabularyError(f"label '{label}' must have at least one phrase, got none; use its name")

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, labels: Iterable[str | Concept] | Vocabulary, *, background: Background = None) -> Vocabulary:
        """The vocabulary of a list of names and concepts.

        Args:
            labels: names, concepts, or a vocabulary, whose own background stays when ``background`` is None.
            background: ``"auto"`` for common things and surfaces less those that match a label; your own list
                of phrases; or None for none, so that every pixel gets a label.

        Raises:
            VocabularyError: the list is empty or one string, or an entry (named) has visual examples, is not text,
                blank, doubled, over-long, or a string that stands for several labels or for the background.
        """
        if isinstance(labels, Vocabulary):
            if background is None:
                return labels
            return replace(labels, background=_background_phrases(background, labels.phrases))
        concepts = _concepts(labels)
        _refuse_examples(concepts)
        phrases = tuple(_distinct((concept.label, *concept.synonyms)) for concept in concepts)
        return cls(
            labels=tuple(concept.label for concept in concepts),
            phrases=phrases,
            contrasts=tuple(concept.not_ for concept in concepts),
            background=_background_phrases(background, phrases),
            weights=tuple(float(concept.weight) for concept in concepts),
            thing=tuple(concept.thing for concept in concepts),
        )

    @property
    def things(self) -> tuple[str, ...]:
        """The labels that are things, in order."""
        pairs = zip(self.labels, self.thing, strict=True)
        return tuple(label for label, thing in pairs if (is_thing(label) if thing is None else thing))

    def concepts(self) -> list[Concept]:
        """One concept per label, without visual examples."""
        return [
            Concept(label, synonyms=phrases, not_=contrasts, weight=weight, thing=thing)
            for label, phrases, contrasts, weight, thing in zip(
                self.labels, self.phrases, self.contrasts, self.weights, self.thing, strict=True
            )
        ]


def check_things(vocabulary: Vocabulary, instances: bool | Sequence[str]) -> tuple[str, ...]:
    """The labels whose objects are asked for, in the order of the vocabulary.

    Args:
        vocabulary: the labels.
        instances: True for all that are things, False for none, or the labels.

    Raises:
        VocabularyError: none of the labels is a thing, or a label is not among them.
    """
    labels = vocabulary.labels
    if isinstance(instances, bool):
        if instances and not vocabulary.things:
            raise VocabularyError(
                f"expected a label with objects to count, got {', '.join(labels)}, only areas; name the labels in "
                "instances=[...] (on the command line --instances-of LABEL), or use Concept(label, thing=True)"
            )
        return vocabulary.things if instances else ()
    if isinstance(instances, str) or not all(isinstance(label, str) for label in instances) or not instances:
        raise VocabularyError(f"instances must be True, False or a list of labels, got {instances!r}")
    for label in instances:
        if label not in labels:
            raise VocabularyError(
                f"instances asks for '{label}', which is none of the labels{did_you_mean(label, labels)} They are: "
                f"{', '.join(labels)}"
            )
    return tuple(label for label in labels if label in set(instances))


def _concepts(labels: Iterable[str | Concept]) -> list[Concept]:
    if isinstance(labels, str | bytes):
        written = split_labels(labels) if isinstance(labels, str) else [labels]
        raise VocabularyError(f"labels must be a list, got the string {labels!r}; write {written}")
    if isinstance(labels, Mapping | set | frozenset) or not isinstance(labels, Iterable):
        raise VocabularyError(f"labels must be a list, got {type(labels).__name__}; the order of labels matters")
    return [
        entry if isinstance(entry, Concept) else Concept(check_label(entry, where=f"labels[{index}]"))
        for index, entry in enumerate(labels)
    ]


def split_labels(text: str) -> list[str]:
    """The labels between which a text has commas, semicolons, bars or single dots.

    >>> split_labels("cat, dog . potted plant|t-shirt")
    ['cat', 'dog', 'potted plant', 't-shirt']
    """
    return [part for part in map(str.strip, _SEPARATOR.split(text)) if part]


def is_one_label(text: str) -> bool:
    """Whether a plain string is accepted as a label; a ``Concept`` of any other is."""
    return split_labels(text) == [text.strip()] and not names_background(text)


def check_label(label: Any, *, where: str) -> str:
    """A plain string as one label, without surrounding blanks; a ``Concept`` may have any name.

    Raises:
        VocabularyError: it is no phrase, stands for several labels, or is a name of the background; ``where`` it
            stands begins the message.
    """
    phrase = check_phrase(label, where=where)
    several = split_labels(phrase)
    if several != [phrase]:
        on_command_line = " ".join(f'"{part}"' if " " in part else part for part in several)
        raise VocabularyError(
            f"{where} must be one label, got {phrase!r}; write {several} (on the command line: {on_command_line}), "
            f"or Concept({phrase!r}) if this is one thing"
        )
    if names_background(phrase):
        raise VocabularyError(
            f"{where} must be something to be seen, got {phrase!r}, a name for what is none of the labels; leave "
            f"it out and use background='auto', which gives such pixels -1, or Concept({phrase!r}) for the word"
        )
    return phrase


def without_pictures(
    labels: Iterable[str | Concept] | Vocabulary,
) -> tuple[Iterable[str | Concept] | Vocabulary, dict[str, Concept]]:
    """The labels as words alone, and by label the concepts that have pictures.

    The words are a vocabulary where some of them are not to count, as a list could not say which.

    Raises:
        VocabularyError: they are no list.
    """
    if isinstance(labels, Vocabulary):
        return labels, {}
    shown = {entry.label: entry for entry in _concepts(labels) if entry.images}
    if not shown:
        return labels, {}
    blank: dict[str, Any] = {name: () for name in PICTURES}
    words = [replace(each, **blank, use_name=True) if isinstance(each, Concept) else each for each in labels]
    nameless = tuple(label for label, concept in shown.items() if not concept.use_name)
    return replace(Vocabulary.of(words), nameless=nameless) if nameless else words, shown


def _refuse_examples(concepts: Iterable[Concept]) -> None:
    """Refuse pictures: a vocabulary is words, and they would be dropped without a word."""
    for concept in concepts:
        if concept.images:
            raise VocabularyError(
                f"concept '{concept.label}' has {len(concept.images)} images, which are not looked at here; leave "
                "out images and describe it in words (synonyms=...)"
            )


def _as_tuple(values: Any, *, where: str) -> tuple[Any, ...]:
    """A list as a tuple; one picture or path in place of a list is refused."""
    if isinstance(values, list | tuple):
        return tuple(values)
    raise VocabularyError(f"{where} must be a list, got {type(values).__name__}; write [...]")


def _spelled_alike(phrase: str) -> str:
    return phrase_for_encoder(phrase).casefold()


def _background_phrases(background: Background, phrases_of_label: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    if background is None:
        return ()
    if isinstance(background, str):
        if background != "auto":
            raise VocabularyError(
                f"background must be 'auto', None or a list of phrases, got {background!r}; write [{background!r}]"
            )
        return unrelated_background(phrase for phrases in phrases_of_label for phrase in phrases)
    return _distinct(_checked_list(background, where="background"))


def _distinct(phrases: Iterable[str]) -> tuple[str, ...]:
    """The phrases without repetitions up to case, in order."""
    first: dict[str, str] = {}
    for phrase in phrases:
        first.setdefault(phrase.casefold(), phrase)
    return tuple(first.values())


def _refuse_duplicates(labels: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for index, label in enumerate(labels):
        before = first.setdefault(label.strip().casefold(), index)
        if before != index:
            raise VocabularyError(
                f"labels must all be different, got '{labels[before]}' at {before} and '{label}' at {index}; "
                f"remove one of them"
            )


def _checked_list(phrases: Any, *, where: str) -> list[str]:
    if isinstance(phrases, str | bytes) or not isinstance(phrases, Iterable):
        raise VocabularyError(f"{where} must be a list of phrases, got {phrases!r}; write [{phrases!r}]")
    return [check_phrase(phrase, where=f"{where} [{index}]") for index, phrase in enumerate(phrases)]


def check_phrase(phrase: Any, *, where: str) -> str:
    """The phrase without surrounding blanks.

    Raises:
        VocabularyError: it cannot be used; ``where`` it stands begins the message.
    """
    if not isinstance(phrase, str):
        raise VocabularyError(f"{where} must be text, got {phrase!r} of type {type(phrase).__name__}; use a string")
    if not phrase.strip():
        raise VocabularyError(f"{where} must be text, got the blank string {phrase!r}; remove it or name a thing")
    if any("\ud800" <= letter <= "\udfff" for letter in phrase):  # bytes of a command line that were not UTF-8
        raise VocabularyError(f"{where} must be text, got {phrase!r}, which is not Unicode; type it again in UTF-8")
    if len(phrase) > MAX_PHRASE_LENGTH:
        raise VocabularyError(
            f"{where} must have at most {MAX_PHRASE_LENGTH} characters, got {len(phrase)}: "
            f"{phrase[:40]!r}...; shorten it"
        )
    return str(phrase).strip()
