"""Networks of transformers by a repository or a folder: where their files are, of what kind, and opened frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovseg.errors import ModelError
from ovseg.files import read_json
from ovseg.hub import content_of, download_folder
from ovseg.weights import freeze


def folder_of(model: str, *, what: str, expected: str, give: str = "") -> Path:
    """The folder with the files of a network, downloaded if need be.

    Args:
        model: a folder, or a repository on the hub.
        what: what the weights are of, for messages.
        expected: what could have been given instead of what is neither, for messages.
        give: how a folder that was filled by hand is given, for messages.

    Raises:
        ModelError: it is neither, or cannot be downloaded.
    """
    from huggingface_hub.errors import HFValidationError

    if Path(model).is_dir():
        return Path(model)
    try:
        return download_folder(model, what=what, give=give)
    except HFValidationError as error:
        raise ModelError(f"expected {expected}, got '{model}'") from error


def kind_of(folder: Path) -> str | None:
    """The "model_type" of a folder's ``config.json``; None where there is none.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    kind = read_json(path, what="file", advice="fetch the model again", error=ModelError).get("model_type")
    return None if kind is None else str(kind)


def told_kind(kind: str | None) -> str:
    """What ``kind_of`` gave, for messages that say what came."""
    return "no config.json" if kind is None else repr(kind)


def open_network(folder: Path, name: str) -> Any:
    """The frozen network of a class of transformers, on the CPU; no code in its files is run.

    Raises:
        ModelError: the folder does not hold its weights.
    """
    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    import transformers

    safe = any(folder.glob("*.safetensors")) or None  # None also takes torch files
    try:
        opened = getattr(transformers, name)
        network = opened.from_pretrained(folder, use_safetensors=safe, weights_only=True, local_files_only=True)
    except Exception as error:  # torch raises whatever the bytes of its files lead to
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"expected the weights of {name} in '{folder}': {reason}") from error
    return freeze(network)


def mark_of(model: str) -> str:
    """What the weights of a folder or repository are known by, as far as they are on this machine yet.

    Never downloads; the name stands for weights that are not here.
    """
    from huggingface_hub import try_to_load_from_cache

    folder = Path(model)
    if folder.is_dir():
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    else:
        found = (try_to_load_from_cache(model, name) for name in ("model.safetensors", "pytorch_model.bin"))
        files = [Path(path) for path in found if isinstance(path, str)][:1]
    return "+".join(content_of(file)[:16] for file in files) or model
