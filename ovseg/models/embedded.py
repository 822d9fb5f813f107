"""Builds the embedded model from the files in the package (or a folder laid out alike)."""

from __future__ import annotations

from pathlib import Path

import torch

from ovseg.assets import asset_root
from ovseg.encoders.embedded.detector import BoxBranch, PicoDetector
from ovseg.encoders.embedded.sentence import SentenceEncoder
from ovseg.encoders.embedded.vision import MiniVision
from ovseg.errors import ModelError
from ovseg.heads.alignment import AlignmentHead
from ovseg.models.config import ModelConfig
from ovseg.models.model import MadeOnce, Model
from ovseg.weights import check_sum

VISION_FILE, TEXT_FILE, HEAD_FILE, TOKENIZER_FILE, BOXES_FILE = (
    "vision.safetensors",
    "text.safetensors",
    "alignment.safetensors",
    "tokenizer.json",
    "boxes.safetensors",
)
FILES = (VISION_FILE, TEXT_FILE, HEAD_FILE, TOKENIZER_FILE)  # a folder may do without boxes


def build_embedded(config: ModelConfig, device: torch.device, dtype: torch.dtype, weights: Path | None) -> Model:
    """The image encoder, text encoder and alignment of an embedded model.

    Raises:
        ModelError: a file is missing or its checksum differs.
    """
    folder = weights or asset_root("models") / config.encoder.name
    _check_folder(folder, name=config.name, given=weights is not None)
    expected = config.encoder.sha256 if weights is None else {}
    image, words, alignment, tokenizer = (check_sum(folder / name, expected.get(name)) for name in FILES)
    marks = {"image": image, "text": words + tokenizer[:16], "head": alignment}
    vision = MiniVision.load(folder / VISION_FILE)
    boxes = folder / BOXES_FILE
    if boxes.is_file():
        marks["boxes"] = check_sum(boxes, expected.get(BOXES_FILE))
        vision.branch = BoxBranch.load(boxes)
    vision = vision.to(device, dtype)
    head = AlignmentHead.load(folder / HEAD_FILE).to(device)  # small: stays in single precision

    @MadeOnce
    def text() -> SentenceEncoder:
        return SentenceEncoder.load(folder / TEXT_FILE, folder / TOKENIZER_FILE)

    @MadeOnce
    def detector() -> PicoDetector:
        if vision.branch is None:
            raise ModelError(f"no weights file '{boxes}'; add that of the package, or leave out boxes and objects")
        return PicoDetector(vision.detector, vision.branch)

    return Model(config, vision, text, head, marks, detector)


def _check_folder(folder: Path, *, name: str, given: bool) -> None:
    """Refuse a folder without all files; ``given`` says whether it is the caller's or the package's."""
    missing = [file for file in FILES if not (folder / file).is_file()]
    if not missing:
        return
    got = f"no {', '.join(missing)}" if folder.is_dir() else "no such folder"
    advice = "give --weights a folder with all of them" if given else "install the package again"
    raise ModelError(
        f"expected the weights of model '{name}' ({', '.join(FILES)}) in the folder '{folder}', got {got}; {advice}"
    )
