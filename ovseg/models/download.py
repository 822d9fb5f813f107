"""The weights of a model file: where they come from, whether they are here, and how to fetch them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from ovseg.hub import (
    WEIGHT_FILES,
    cached_weights,
    check_bytes,
    download_folder,
    download_tokenizer,
    find_weights,
    has_tokenizer,
)
from ovseg.models.config import ModelConfig
from ovseg.own_files import find_own, has_own
from ovseg.sam.load import sam_repo

STRUCTURE_FOLDER = "structure"
TEXT_FOLDER = "text"
_FOLDERS = {"huggingface", "groupvit", "masks"}  # kinds that need more of a repository than its weights


def is_local(config: ModelConfig) -> bool:
    """Whether all weights of a hub model are on this machine; asks the disk only."""
    encoder = config.encoder
    repos = [encoder.repo, *_sam_repos(config)]
    repos += [part.repo for part in (encoder.structure, encoder.text) if part is not None]
    tokenizer = tokenizer_repo((encoder.text or encoder).name) if encoder.kind not in _FOLDERS else ""
    here = all(cached_weights(repo) is not None for repo in repos) and all(map(has_own, own_files(config)))
    return here and (not tokenizer or has_tokenizer(tokenizer))


def own_files(config: ModelConfig) -> dict[str, tuple[str, str]]:
    """The files of a model that no hub holds: by path, what each holds and where it may be had."""
    converter, head = config.encoder.converter, config.head
    found = {} if converter is None else {converter.file: ("the converter of CLIP-DINOiser", converter.source)}
    if head is not None and head.source:
        found[head.weights] = (f"the weights of the head '{head.kind}'", head.source)
    return found


def find_own_of(config: ModelConfig, name: str, place: Path | None = None) -> Path:
    """One of ``own_files``; see ``ovseg.own_files.find_own``."""
    held, source = own_files(config)[name]
    return find_own(name, place, what=held, source=source)


def _sam_repos(config: ModelConfig) -> list[str]:
    regions = (config.encoder.regions, config.correction)
    asked = [part.model for part in regions if part is not None]
    asked += [] if config.gather is None else [config.gather.sam]
    asked += [] if config.redraw is None else [config.redraw.model]
    asked += [] if config.examples.masks is None else [config.examples.masks]
    if config.encoder.kind == "masks":  # other models can do without until objects are asked for
        asked += [part.masks for part in (config.objects.fast, config.objects.best) if part.masks != "map"]
    return sorted({sam_repo(model) for model in asked if model} - {""})


def fetch(config: ModelConfig) -> list[Path]:
    """Download and verify all weights of a model, with a progress bar; what is there already is kept.

    Returns:
        The files, or folders, in the hub's cache; empty for a model whose weights are in the package.

    Raises:
        ModelError: as ``download``; or a checksum differs.
    """
    if config.encoder.kind == "embedded":
        return []
    what = f"model '{config.name}'"
    for name in own_files(config):
        find_own_of(config, name)
    paths = [*_fetch_towers(config, what), *(download_folder(repo, what="SAM") for repo in _sam_repos(config))]
    for path in paths:
        check_bytes(path, what=what)
    return paths


def _fetch_towers(config: ModelConfig, what: str) -> list[Path]:
    encoder, facts = config.encoder, describe(config)
    if encoder.kind in _FOLDERS:
        return [download_folder(encoder.repo, what=what, facts=facts)]
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
    text = encoder.text or encoder
    if encoder.text is not None:
        named = f"the text side of {what}"
        paths.append(find_weights(encoder.text.repo, None, what=named, facts=facts, folder=TEXT_FOLDER))
    if tokenizer := tokenizer_repo(text.name):
        paths.append(download_tokenizer(tokenizer, what=f"the tokenizer of {what}"))
    return paths


def tokenizer_repo(name: str) -> str:
    """Repository of the tokenizer that open_clip's ``name`` takes from the hub; empty where it brings its own."""
    package = find_spec("open_clip")  # not imported: that takes seconds
    folder = Path(package.origin).parent if package is not None and package.origin else Path()
    path = folder / "model_configs" / f"{name}.json"
    if not path.is_file():
        return ""
    return str(json.loads(path.read_text(encoding="utf-8"))["text_cfg"].get("hf_tokenizer_name", ""))


def checksum(config: ModelConfig) -> str:
    """Expected SHA-256 of the main weights file, or an empty string."""
    return next((config.encoder.sha256[name] for name in WEIGHT_FILES if name in config.encoder.sha256), "")


def describe(config: ModelConfig) -> str:
    """Size and licence in a few words."""
    return f"about {config.megabytes:.0f} MB, licence {config.license}"
