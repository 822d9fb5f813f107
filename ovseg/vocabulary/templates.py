"""Prompt ensembles: sentences that a phrase is put into before it is encoded."""

from __future__ import annotations

from ovseg.assets import find_asset
from ovseg.config import Config, load_config


class Templates(Config):
    """A prompt ensemble: sentences with ``{}`` where the phrase goes (``prompts/templates/*.yaml``)."""

    source: str
    templates: tuple[str, ...]

    @classmethod
    def named(cls, name: str) -> Templates:
        """The ensemble ``name``, or that of a YAML file.

        Raises:
            ConfigError: there is no such file, or a key is wrong.
        """
        return load_config(cls, find_asset("prompts/templates", name))

    def fill(self, phrase: str) -> list[str]:
        """One sentence per template."""
        return [template.replace("{}", phrase) for template in self.templates]
