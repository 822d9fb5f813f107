"""Recipes of concept sets: YAML files in ``retrieval/concepts/``."""

from __future__ import annotations

from ovseg.assets import find_asset
from ovseg.config import Config, load_config
from ovseg.vocabulary.labels import Concept


class ConceptEntry(Config):
    """A concept of a recipe: its name, other words for it, and what it is not."""

    name: str
    synonyms: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()


class ConceptRecipe(Config):
    """What is learned together (``retrieval/concepts/*.yaml``).

    Attributes:
        summary: one sentence.
        source: paper or data set that the names come from.
        concepts: names, or entries with synonyms and negatives.
        contexts: common surroundings, learned first, in order.
        k: images retrieved per concept.
    """

    summary: str
    source: str
    concepts: tuple[str | ConceptEntry, ...]
    contexts: tuple[str, ...] = ()
    k: int = 50

    @classmethod
    def named(cls, name: str) -> ConceptRecipe:
        """The recipe ``name``, or that of a YAML file.

        Raises:
            ConfigError: there is no such file, or a key is wrong.
        """
        return load_config(cls, find_asset("retrieval/concepts", name))

    def entries(self) -> list[Concept]:
        """As ``learn_concepts`` takes them."""
        return [
            Concept(each)
            if isinstance(each, str)
            else Concept(each.name, synonyms=each.synonyms, not_=each.negative)
            for each in self.concepts
        ]
