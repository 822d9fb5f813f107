"""What a segmenter is asked for, as queries: labels as given, what competes with them, and broader words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from ovseg.errors import VocabularyError
from ovseg.models.model import Model
from ovseg.pipeline.colours import with_colours
from ovseg.pipeline.modifiers import Modifier
from ovseg.pipeline.queries import QueryBank, encode_vocabulary
from ovseg.pipeline.recent import RecentQueries
from ovseg.pipeline.text_cache import TextCache
from ovseg.vocabulary.broader import broadened
from ovseg.vocabulary.coloured import with_nouns
from ovseg.vocabulary.labels import Background, Concept, Vocabulary
from ovseg.vocabulary.templates import Templates

Labels: TypeAlias = Sequence[str | Concept] | Vocabulary | QueryBank


class Wording:
    """Words as queries of one model. The last ones stay in memory, and text vectors on disk; threads may share it.

    Args:
        model: whose text encoder, templates and rules for words.
        device: where vectors go.
        cache: folder for text vectors; None keeps none.
    """

    def __init__(self, model: Model, *, device: torch.device, cache: Path | None) -> None:
        self.model, self.device = model, device
        self.templates = Templates.named(model.config.templates)
        self.cache = TextCache(cache)
        self._recent = RecentQueries()

    def queries(self, words: Iterable[str | Concept] | Vocabulary, background: Background) -> QueryBank:
        """The queries of these words, whatever pictures of them there are.

        Raises:
            VocabularyError: a label cannot be used.
        """
        return self._recent.of(words, self._contrasts(background), self._encoded)

    def vocabulary(self, words: Iterable[str | Concept] | Vocabulary, background: Background) -> Vocabulary:
        """All that the queries of these words stand for.

        Raises:
            VocabularyError: a label cannot be used.
        """
        return self._broadened(Vocabulary.of(words, background=self._contrasts(background)))

    def _contrasts(self, background: Background) -> Background:
        """What competes with the labels; where each is judged by itself, nothing that nobody named."""
        return () if background == "auto" and self.model.config.scoring.over == "each" else background

    def _encoded(self, vocabulary: Vocabulary) -> QueryBank:
        colours = self.model.config.colours
        queries = encode_vocabulary(
            self._broadened(vocabulary), self.model, self.templates, cache=self.cache, device=self.device
        )
        return queries if colours is None else with_colours(queries, colours)

    def _broadened(self, vocabulary: Vocabulary) -> Vocabulary:
        config = self.model.config
        vocabulary = vocabulary if config.colours is None else with_nouns(vocabulary, broader=config.broader)
        return vocabulary if config.broader is None else broadened(vocabulary, table=config.broader)


def asked_labels(labels: Labels | None, modifiers: Sequence[Modifier]) -> Labels:
    """What to look for; where nothing is given, what the modifiers know by themselves.

    Raises:
        VocabularyError: there is neither.
    """
    given = labels is not None and (isinstance(labels, Vocabulary | QueryBank) or len(labels) > 0)
    known = [name for modifier in modifiers for name in modifier.names]
    if labels is None and not known:
        raise VocabularyError("expected labels, got none; name what to find, as in segment(image, ['cat'])")
    return labels if given or not known else [Concept(name) for name in known]  # type: ignore[return-value]
