"""The weights of a model file: where they come from, whether they are here, and how to fetch them."""

from __future__ import annotations

from pathlib import Path

from ovseg.hub import WEIGHT_FILES, download_folder, find_weights
from ovseg.models.config import ModelConfig

STRUCTURE_FOLDER = "structure"
TEXT_FOLDER = "text"


def is_local(config: ModelConfig) -> bool:
    """Whether all weights of a hub model are on this machine; asks the disk only."""
    encoder = config.encoder
    repos = [encoder.repo, *_sam_repos(config)]
    repos += [part.repo for part in (encoder.structure, encoder.text) if part is not None]
    return all(_is_cached(repo) for repo in repos)


def _sam_repos(config: ModelConfig) -> list[str]:
    parts = (config.encoder.regions, config.correction)
    return sorted({part.repo for part in parts if part is not None and part.repo})


def _is_cached(repo: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return bool(repo) and any(isinstance(try_to_load_from_cache(repo, name), str) for name in WEIGHT_FILES)


def fetch(config: ModelConfig) -> list[Path]:
    """Download and verify all weights of a model, with a progress bar; what is there already is kept.

    Returns:
        The files, or folders, in the hub's cache; empty for a model whose weights are in the package.

    Raises:
        ModelError: as ``download``; or a checksum differs.
    """
    encoder = config.encoder
    if encoder.kind == "embedded":
        return []
    what, facts = f"model '{config.name}'", describe(config)
    sam = [download_folder(repo, what="SAM") for repo in _sam_repos(config)]
    if encoder.kind == "huggingface":
        return [download_folder(encoder.repo, what=what, facts=facts), *sam]
    paths = [find_weights(encoder.repo, None, what=what, facts=facts, sha256=checksum(config))]
    if encoder.structure is not None:
        named = f"structure encoder '{encoder.structure.name}'"
        paths.append(
            find_weights(
                encoder.structure.repo,
                None,
                what=named,
                sha256=encoder.structure.sha256,
                folder=STRUCTURE_FOLDER,
            )
        )
    if encoder.text is not None:
        named = f"the text side of {what}"
        paths.append(find_weights(encoder.text.repo, None, what=named, facts=facts, folder=TEXT_FOLDER))
    return paths + sam


def checksum(config: ModelConfig) -> str:
    """Expected SHA-256 of the main weights file, or an empty string."""
    return next((config.encoder.sha256[name] for name in WEIGHT_FILES if name in config.encoder.sha256), "")


def describe(config: ModelConfig) -> str:
    """Size and licence in a few words."""
    return f"about {config.megabytes:.0f} MB, licence {config.license}"
