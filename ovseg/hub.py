"""Weights by name from the Hugging Face hub, or from a local folder; errors say what to do by hand."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ovseg.errors import ModelError
from ovseg.files import sha256_of
from ovseg.network import page_of, quiet_attempts, unreachable

WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
_TORCH_FILE = "pytorch_model.bin"
_FOLDER_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
_TOKENIZER_FILES = ["tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model"]
_TOKENIZER_MARKS = ("tokenizer.json", "tokenizer_config.json")
_SHA256 = re.compile("[0-9a-f]{64}")  # what the hub calls a large file; small ones go by git's SHA-1


def find_weights(
    repo: str, place: Path | None, *, what: str, sha256: str = "", facts: str = "", folder: str = ""
) -> Path:
    """The weights file in a local place, or else of a repository on the hub, downloaded if need be.

    Args:
        repo: repository on the hub, such as ``timm/vit_base_patch16_clip_224.openai``.
        place: a file, or a folder that holds one of ``WEIGHT_FILES``; None takes the hub.
        what: what the weights are of, for messages.
        sha256: checksum of the file, if known. A file of the hub's cache that differs is deleted.
        facts: size and licence, for messages.
        folder: folder inside ``place`` that the file belongs in, for messages.

    Raises:
        ModelError: there is no such file, it cannot be downloaded, or its checksum differs.
    """
    path = download(repo, what=what, facts=facts, folder=folder) if place is None else _in_place(place, what)
    if sha256 and (found := sha256_of(path)) != sha256:
        differs = f"the weights of {what} are not those expected: the SHA-256 of '{path}' is {found[:12]}…, not "
        if place is not None:
            raise ModelError(f"{differs}{sha256[:12]}…; delete the file and fetch it again")
        _forget(path)
        raise ModelError(
            f"{differs}{sha256[:12]}…; it was deleted, fetch it again; if it differs again, {page_of(repo)} holds "
            "other weights than the model file states under 'sha256:'"
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
    if not repo:
        raise ModelError(f"the model file names no repository for the weights of {what}; give --weights FOLDER")
    with explained(repo, what=what, facts=facts, folder=folder):
        found = _first_of(repo)
    if found is None:
        raise ModelError(f"expected one of {', '.join(WEIGHT_FILES)} in {page_of(repo)}, got none of them")
    return found


def _first_of(repo: str) -> Path | None:
    """The first of ``WEIGHT_FILES`` that a repository has; without a network, that is here."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    here = cached_weights(repo)
    for name in WEIGHT_FILES:
        if (
            here is not None
            and huggingface_hub.try_to_load_from_cache(repo, name) is huggingface_hub._CACHED_NO_EXIST
        ):
            continue  # the hub said so when it gave the one that is here; without it, asking takes half a minute
        try:
            return Path(huggingface_hub.hf_hub_download(repo, name, local_files_only=unreachable()))
        except LocalEntryNotFoundError:  # no word from the hub on whether the repository has it
            if here is None:
                raise
            return here
        except EntryNotFoundError:
            continue
    return None


def cached_weights(repo: str) -> Path | None:
    """The weights file of a repository that is on this machine; asks the disk only."""
    import huggingface_hub

    found = (huggingface_hub.try_to_load_from_cache(repo, name) for name in WEIGHT_FILES) if repo else ()
    return next((Path(path) for path in found if isinstance(path, str)), None)


def download_file(repo: str, name: str, *, what: str) -> Path | None:
    """One small file of a repository, downloaded if need be; None where it has none, or cannot be asked.

    Raises:
        ModelError: as ``download``.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    with explained(repo, what=what):
        try:
            return Path(huggingface_hub.hf_hub_download(repo, name, local_files_only=unreachable()))
        except EntryNotFoundError:
            return None


def download_folder(repo: str, *, what: str, facts: str = "", give: str = "") -> Path:
    """Folder of ``repo`` in the hub's cache: weights, configuration and tokenizer, downloaded if need be.

    The weights are safetensors; ``pytorch_model.bin`` is taken where a repository has none. ``give`` says how a
    folder that was filled by hand is given, where that is not by ``--weights``.

    Raises:
        ModelError: as ``download``.
    """
    with explained(repo, what=what, facts=facts, give=give):
        folder = _snapshot(repo, _FOLDER_FILES)
        if not any(folder.glob("*.safetensors")):
            _snapshot(repo, [_TORCH_FILE])
    return folder


def download_tokenizer(repo: str, *, what: str) -> Path:
    """Folder of ``repo`` in the hub's cache with the files of its tokenizer, downloaded if need be.

    Raises:
        ModelError: as ``download``.
    """
    with explained(repo, what=what, tokenizer=True):
        return _snapshot(repo, _TOKENIZER_FILES)


def has_tokenizer(place: str | Path) -> bool:
    """Whether a folder, or the cache of a repository (asked by its name), holds the files of a tokenizer."""
    import huggingface_hub

    if isinstance(place, Path):
        return any((place / name).is_file() for name in _TOKENIZER_MARKS)
    return any(isinstance(huggingface_hub.try_to_load_from_cache(place, name), str) for name in _TOKENIZER_MARKS)


def _snapshot(repo: str, patterns: list[str]) -> Path:
    import huggingface_hub

    return Path(huggingface_hub.snapshot_download(repo, allow_patterns=patterns, local_files_only=unreachable()))


def check_bytes(path: Path, *, what: str) -> None:
    """Compare large files of the hub's cache with the SHA-256 that the hub knows them by.

    Args:
        path: a file, or a folder of them; what does not lie in the cache is not looked at.
        what: what the weights are of, for messages.

    Raises:
        ModelError: a file is damaged; it was deleted.
    """
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        blob = file.resolve()
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) and sha256_of(blob) != blob.name:
            _forget(file)
            raise ModelError(f"'{file}', of {what}, was damaged on this disk; it was deleted, fetch it again")


def _forget(path: Path) -> None:
    """Delete a file of the hub's cache: the link by its name, and what it leads to, which would be linked again."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


@contextmanager
def explained(
    repo: str,
    *,
    what: str,
    facts: str = "",
    folder: str = "",
    tokenizer: bool = False,
    give: str = "",
) -> Iterator[None]:
    """Turn the hub's errors inside the block into a ``ModelError`` that says what to do by hand."""
    from huggingface_hub.errors import HfHubHTTPError

    # the class of its web library, whose name changed between versions, that broken connections are told by
    broken: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    try:
        with quiet_attempts():
            yield
    except (broken, OSError) as error:
        about = what if tokenizer else f"the weights of {what}{f' ({facts})' if facts else ''}"
        needed = "its files" if tokenizer or give else f"one of {', '.join(WEIGHT_FILES)}"
        known = _known_trouble(error, about, repo, named="the name" if give else "'repo:' in the model file")
        target = f"FOLDER/{folder}" if folder else "FOLDER"
        by_hand = f"download {needed} by hand into {target} and give {give or '--weights FOLDER'}"
        raise ModelError(
            known or f"{about} could not be fetched from {page_of(repo)}: {_reason(error)}; {by_hand}"
        ) from error


def _known_trouble(error: BaseException, about: str, repo: str, *, named: str) -> str:
    """The whole message where another thing helps than a download by hand, or an empty string."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return (
            f"{about} are gated; accept their licence at {page_of(repo)} (log in, click 'Agree and access "
            "repository') and run 'hf auth login' with a token of that account"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{about} could not be fetched: there is no repository {page_of(repo)}, or it is private; check "
            f"{named}, or run 'hf auth login' with a token that may read it"
        )
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return (
            f"the disk is full while {about} come from {page_of(repo)}; free some space, or set "
            "HF_HOME to a folder on a larger disk"
        )
    return ""


def _reason(error: BaseException) -> str:
    """Why the hub gave nothing, in a few words."""
    from huggingface_hub.errors import FileMetadataError, LocalEntryNotFoundError, OfflineModeIsEnabled

    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status == 429:
        return "the hub wants fewer requests (429); wait some minutes, or log in by 'hf auth login'"
    if status is not None:
        return f"the hub answered with status {status}"
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and they are not on this machine"
    if isinstance(cause, FileMetadataError):
        return "what answers there is no hub; check HF_ENDPOINT, and whether the network wants a login"
    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached"
    if isinstance(error, PermissionError):
        return f"'{error.filename}' must not be written; set HF_HOME to a folder of yours"
    return f"the connection broke ({type(error).__name__}); run the same command again"


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
    for nested in ("state_dict", "model_state_dict"):
        state = state.get(nested, state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping):
        raise ModelError(
            f"weights file '{path}' must hold a mapping of names to tensors, got {type(state).__name__}"
        )
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def content_of(path: Path) -> str:
    """What a weights file's bytes are known by: the name that the hub's cache gives them, or their SHA-256."""
    resolved = path.resolve()
    return resolved.name if resolved.parent.name == "blobs" else sha256_of(resolved)
