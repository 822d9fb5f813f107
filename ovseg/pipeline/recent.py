"""The vectors of the last vocabularies, kept in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from ovseg.pipeline.queries import QueryBank
from ovseg.vocabulary.labels import Background, Concept, Vocabulary

_KEPT = 8


class RecentQueries:
    """Query banks of the last vocabularies. Threads may share it; a pickled copy is empty."""

    def __init__(self) -> None:
        self._banks: dict[Hashable, QueryBank] = {}
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type[RecentQueries], tuple[()]]:
        return RecentQueries, ()

    def of(
        self,
        labels: Iterable[str | Concept] | Vocabulary,
        background: Background,
        make: Callable[[Vocabulary], QueryBank],
    ) -> QueryBank:
        """The bank of these labels, made where it is not kept.

        Raises:
            VocabularyError: a label cannot be used.
        """
        key = _key(labels, background) or Vocabulary.of(labels, background=background)
        with self._lock:  # also while it is made: who asks for the same meanwhile waits for it
            found = self._banks.get(key)
            if found is None:
                found = make(key if isinstance(key, Vocabulary) else Vocabulary.of(labels, background=background))
                while len(self._banks) >= _KEPT:
                    self._banks.pop(next(iter(self._banks)))
                self._banks[key] = found
            return found


def _key(labels: Any, background: Background) -> Hashable | None:
    """What a query bank is remembered by, cheaply: plain words; None for anything else."""
    plain = background is None or isinstance(background, str)
    for words in (labels, () if plain else background):
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            return None
    return tuple(labels), background if plain else tuple(background)  # type: ignore[arg-type]
