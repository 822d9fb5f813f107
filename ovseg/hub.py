"""Weights by name from the Hugging Face hub, or from a local folder; errors say what to do by hand."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ovseg.errors import ModelError
from ovseg.files import sha256_of
from ovseg.network import quiet_attempts, unreachable

WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
_FOLDER_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]


def find_weights(
    repo: str, place: Path | None, *, what: str, sha256: str = "", facts: str = "", folder: str = ""
) -> Path:
    """The weights file in a local place, or else of a repository on the hub, downloaded if need be.

    Args:
        repo: repository on the hub, such as ``timm/vit_base_patch16_clip_224.openai``.
        place: a file, or a folder that holds one of ``WEIGHT_FILES``; None takes the hub.
        what: what the weights are of, for messages.
        sha256: checksum of the file, if known.
        facts: size and licence, for messages.
        folder: folder inside ``place`` that the file belongs in, for messages.

    Raises:
        ModelError: there is no such file, it cannot be downloaded, or its checksum differs.
    """
    path = download(repo, what=what, facts=facts, folder=folder) if place is None else _in_place(place, what)
    if sha256 and sha256_of(path) != sha256:
        raise ModelError(
            f"the weights of {what} are not those expected: the SHA-256 of '{path}' is not {sha256[:12]}…; "
            "delete the file and fetch it again"
        )
    return path


def _in_place(place: Path, what: str) -> Path:
    if place.is_file():
        return place
    for name in WEIGHT_FILES:
        if (place / name).is_file():
            return place / name
    raise ModelError(
        f"expected the weights of {what} as one of {', '.join(WEIGHT_FILES)} in '{place}', got none of them"
    )


def download(repo: str, *, what: str, facts: str = "", folder: str = "") -> Path:
    """Path of the weights file of ``repo`` in the hub's cache, downloaded with a progress bar if need be.

    Raises:
        ModelError: the hub cannot be reached, asks for a login, has no such file, or the disk is full.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if not repo:
        raise ModelError(f"the model file names no repository for the weights of {what}; give --weights FOLDER")
    with explained(repo, what=what, facts=facts, folder=folder):
        for name in WEIGHT_FILES:
            try:
                return Path(huggingface_hub.hf_hub_download(repo, name, local_files_only=unreachable()))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    raise ModelError(
        f"expected one of {', '.join(WEIGHT_FILES)} in https://huggingface.co/{repo}, got none of them"
    )


def download_folder(repo: str, *, what: str, facts: str = "") -> Path:
    """Folder of ``repo`` in the hub's cache: safetensors, configuration and tokenizer, downloaded if need be.

    Raises:
        ModelError: as ``download``.
    """
    import huggingface_hub

    with explained(repo, what=what, facts=facts):
        return Path(
            huggingface_hub.snapshot_download(repo, allow_patterns=_FOLDER_FILES, local_files_only=unreachable())
        )


@contextmanager
def explained(repo: str, *, what: str, facts: str = "", folder: str = "") -> Iterator[None]:
    """Turn the hub's errors inside the block into a ``ModelError`` that says what to do by hand."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with quiet_attempts():
            yield
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(_advice(error, repo, what=what, facts=facts, folder=folder)) from error


def _advice(error: Exception, repo: str, *, what: str, facts: str, folder: str) -> str:
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    page = f"https://huggingface.co/{repo}"
    about = f" ({facts})" if facts else ""
    if isinstance(error, GatedRepoError):
        return f"the weights of {what}{about} are gated; accept their licence at {page} and run 'hf auth login'"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"the disk is full while the weights of {what}{about} come from {page}; free some space, or set "
            "HF_HOME to a folder on a larger disk"
        )
    target = f"FOLDER/{folder}" if folder else "FOLDER"
    offline = isinstance(error, LocalEntryNotFoundError)
    reason = "the hub cannot be reached" if offline else type(error).__name__
    return (
        f"the weights of {what}{about} could not be fetched from {page}: {reason}; download "
        f"one of {', '.join(WEIGHT_FILES)} by hand into {target} and give --weights FOLDER"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a torch file read without running any code in it.

    Raises:
        ModelError: the file is damaged or holds more than tensors.
    """
    import torch

    from ovseg.weights import load_weights

    if path.suffix == ".safetensors":
        return load_weights(path)[0]
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes lead to
        raise ModelError(f"weights file '{path}' cannot be read as tensors alone: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping):
        raise ModelError(
            f"weights file '{path}' must hold a mapping of names to tensors, got {type(state).__name__}"
        )
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def content_of(path: Path) -> str:
    """What a weights file's bytes are known by: the name that the hub's cache gives them, or their SHA-256."""
    resolved = path.resolve()
    return resolved.name if resolved.parent.name == "blobs" else sha256_of(resolved)
