"""Word lists of papers: the phrases of every class of a benchmark, exactly as released code has them."""

from __future__ import annotations

from ovseg.assets import find_asset
from ovseg.config import Config, load_config


class WordList(Config):
    """One word list (``prompts/words/*.yaml``).

    Attributes:
        source: the file and the repository that it is from.
        classes: phrases of each class, in the order of the benchmark's classes.
    """

    source: str
    classes: tuple[tuple[str, ...], ...]

    @classmethod
    def named(cls, name: str) -> WordList:
        """The list ``name``, or that of a YAML file.

        Raises:
            ConfigError: there is no such file, or a key is wrong.
        """
        return load_config(cls, find_asset("prompts/words", name))
