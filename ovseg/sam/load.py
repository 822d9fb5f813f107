"""The SAMs by name: the embedded one, or a repository or folder of transformers."""

from __future__ import annotations

from functools import lru_cache

import torch

from ovseg.checkpoints import mark_of
from ovseg.images.photo import Photo
from ovseg.sam.mobile import MOBILE_SAM, SHA256, WEIGHTS_FILE, load_mobile_sam
from ovseg.sam.protocol import PromptedSam, SamEmbedding

_CPU = torch.device("cpu")


@lru_cache(maxsize=1)
def load_sam(model: str = MOBILE_SAM, *, device: torch.device = _CPU) -> PromptedSam:
    """A frozen SAM; the last one asked for stays in memory.

    Args:
        model: ``mobile-sam``, which is in the package; or a repository on the hub or a folder with weights of SAM
            (``facebook/sam-vit-base``), SAM 2 or 2.1 (``facebook/sam2.1-hiera-tiny``) or EdgeTAM.
        device: where it computes; prompts and masks are on the CPU.

    Raises:
        ModelError: the weights are missing, damaged or of another network; says what to do.
    """
    if model == MOBILE_SAM:
        return load_mobile_sam().to(device)
    from ovseg.sam.hub import open_from_hub

    return open_from_hub(model).to(device)


def ask_sam(photo: Photo, model: str) -> tuple[PromptedSam, SamEmbedding]:
    """The SAM ``model`` on the photo's device, and the photo as it sees it, encoded once for all that ask.

    Raises:
        ModelError: see ``load_sam``.
    """
    network = load_sam(model, device=photo.device)
    return network, photo.once(f"sam {model}", lambda: network.encode(photo.pixels))


def sam_repo(model: str) -> str:
    """The repository or folder that a model is fetched from; empty for the embedded one."""
    return "" if model == MOBILE_SAM else model


def sam_mark(model: str) -> str:
    """What the weights of a SAM are known by, as far as they are on this machine yet; never downloads."""
    if model == MOBILE_SAM:
        return SHA256[WEIGHTS_FILE][:16]
    return mark_of(model)
