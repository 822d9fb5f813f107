"""What fewer tokens in a tower (``encoder.tokens``) save, and change.

    .venv/bin/python evaluation/peers/token_speed.py [--model clip-b16-naclip-shared] [--side 448]
    .venv/bin/python evaluation/peers/token_speed.py --dinov2 dinov2-s.safetensors --data CAMVID [--photos 8]

Without ``--dinov2`` a model on random weights, one photo, and as labels 20 random text vectors. With it, DINOv2-S
(see ``focus_weights.py``) on a folder with ``train`` and ``val``, each with ``images`` and ``masks``: the labels
are the classes, each the mean of its cells in 16 photos of ``train``; so it is also measured how many cells of
``val`` get the right one. Processor time of one thread: each photo runs with all tokens and with fewer, one right
after the other; the median of the ratios, and the quarters around it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from tower_speed import EXAMPLE, random_model

from ovseg.attention import RecipeConfig
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.reduction.expedit import ExpeditConfig
from ovseg.encoders.reduction.registry import TokenReduction
from ovseg.encoders.reduction.stop import StopConfig
from ovseg.encoders.reduction.tome import ToMeConfig
from ovseg.encoders.reduction.transform import TransformConfig
from ovseg.encoders.reduction.walk import WayConfig
from ovseg.encoders.spec import EncoderSpec
from ovseg.encoders.timm_vit import TimmViT
from ovseg.images.resize import prepare, working_size
from ovseg.weights import load_module

WAYS: tuple[WayConfig, ...] = (
    ExpeditConfig(after=4),
    ExpeditConfig(after=6),
    ExpeditConfig(after=4, share=0.5),
    ExpeditConfig(after=6, sharpness=4),
    ToMeConfig(merged=0.03),
    ToMeConfig(merged=0.05),
    ToMeConfig(merged=0.06),
    ToMeConfig(merged=0.08, after=2),
    StopConfig(),
    StopConfig(after=(4, 7)),
    TransformConfig(after=6),
    TransformConfig(after=4),
)
CLASSES = 11  # of CamVid; other numbers in masks are no class
SHOWN = 16  # photos that labels are learned from


@dataclass(frozen=True)
class Case:
    """One photo: pixels (1, 3, H, W), and the class of each cell (h, w), 255 where it has none."""

    pixels: Tensor
    truth: Tensor | None = None


@dataclass(frozen=True)
class Words:
    """Labels: unit vectors (Q, C), and what is taken off the features (C,) before they are compared."""

    vectors: Tensor
    centre: Tensor

    def labels(self, values: Tensor) -> Tensor:
        """(1, C, h, w) to (h, w)."""
        unit = functional.normalize(values[0] - self.centre[:, None, None], dim=0)
        return torch.einsum("chw,qc->qhw", unit, self.vectors).argmax(0)


def case_of(path: Path, encoder: RecipeEncoder, side: int, mask: Path | None = None) -> Case:
    """A photo at its working size."""
    image, spec = np.asarray(Image.open(path).convert("RGB")), encoder.spec
    size = working_size(image.shape[:2], short_side=side, max_long_side=None, stride=spec.granularity)
    pixels, _ = prepare(image, spec, size=size)
    if mask is None:
        return Case(pixels)
    rows, columns = size[0] // spec.stride, size[1] // spec.stride
    truth = Image.open(mask).resize((columns, rows), Image.Resampling.NEAREST)
    return Case(pixels, torch.from_numpy(np.asarray(truth).astype(np.int64)))


def random_words(channels: int) -> Words:
    """20 directions."""
    vectors = torch.randn(20, channels, generator=torch.Generator().manual_seed(0))
    return Words(functional.normalize(vectors, dim=1), torch.zeros(channels))


def shown_words(encoder: RecipeEncoder, cases: list[Case]) -> Words:
    """The mean of each class over the cells of some photos, all of which must have cells."""
    cells = torch.cat([encoder.dense(case.pixels).values[0].flatten(1).T for case in cases])
    truth = torch.cat([case.truth.flatten() for case in cases if case.truth is not None])
    if len(truth[truth < CLASSES].unique()) < CLASSES:
        raise SystemExit(f"expected cells of all {CLASSES} classes in {len(cases)} photos of train; is it CamVid?")
    centre = cells.mean(0)
    unit = functional.normalize(cells - centre, dim=1)
    means = torch.stack([unit[truth == number].mean(0) for number in range(CLASSES)])
    return Words(functional.normalize(means, dim=1), centre)


def dinov2(weights: Path) -> RecipeEncoder:
    """DINOv2-S, whose last block is as it was trained."""
    import timm

    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    load_module(network, load_file(weights), source=str(weights))
    spec = EncoderSpec("dinov2-s", "dinov2-s", 14, 384)
    return RecipeEncoder(TimmViT(network.eval()), spec, recipe=RecipeConfig(name="plain"))


def pairs_of(folder: Path, count: int) -> list[tuple[Path, Path]]:
    """Photos, evenly spread over a folder, with their masks."""
    photos = sorted((folder / "images").iterdir())
    chosen = [photos[number * len(photos) // count] for number in range(min(count, len(photos)))]
    return [(photo, folder / "masks" / f"{photo.stem}.png") for photo in chosen]


def timed(encoder: RecipeEncoder, pixels: Tensor) -> tuple[Tensor, float]:
    """Features (1, C, h, w), and the seconds of processor time."""
    start = time.process_time()
    values = encoder.dense(pixels).values
    return values, time.process_time() - start


def right(labels: list[Tensor], cases: list[Case]) -> float:
    """Percent of the cells with a class that get it."""
    known = [case.truth < CLASSES for case in cases if case.truth is not None]
    hits = [(label == case.truth)[cell] for label, case, cell in zip(labels, cases, known, strict=True)]
    return 100 * float(torch.cat(hits).float().mean())


def row(encoder: RecipeEncoder, way: WayConfig, cases: list[Case], words: Words) -> str:
    """One line of the table."""
    ratios, cosines, agree, before, after = [], [], [], [], []
    for case in cases:
        encoder.tower.walk = None
        whole, long = timed(encoder, case.pixels)
        encoder.tower.walk = TokenReduction(way, len(encoder.tower.blocks))
        found, short = timed(encoder, case.pixels)
        ratios.append(long / short)
        cosines.append(float(functional.cosine_similarity(found, whole, dim=1).mean()))
        before.append(words.labels(whole))
        after.append(words.labels(found))
        agree.append(100 * float((before[-1] == after[-1]).float().mean()))
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    options = ", ".join(f"{name}: {value}" for name, value in way.model_dump(exclude_defaults=True).items())
    known = cases[0].truth is not None
    lost = f" {right(after, cases) - right(before, cases):+.1f} of {right(before, cases):.1f} |" if known else ""
    return (
        f"| {way.model_dump()['name']} | {options or 'as they are'} | {middle:.2f} ({low:.2f}–{high:.2f}) "
        f"| {np.mean(cosines):.4f} | {np.mean(agree):.1f} |{lost}"
    )


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="clip-b16-naclip-shared")
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=5, help="of the one photo, on random weights")
    parser.add_argument("--dinov2", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--photos", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.dinov2 is None:
        encoder = random_model(given.model).image
        assert isinstance(encoder, RecipeEncoder)
        cases, words = [case_of(EXAMPLE, encoder, given.side)] * given.rounds, random_words(encoder.spec.channels)
    else:
        encoder = dinov2(given.dinov2)
        chosen = [pairs_of(given.data / "train", SHOWN), pairs_of(given.data / "val", given.photos)]
        shown, cases = [[case_of(photo, encoder, given.side, mask) for photo, mask in part] for part in chosen]
        words = shown_words(encoder, shown)
    patches = " x ".join(str(side // encoder.tower.stride) for side in cases[0].pixels.shape[-2:])
    print(f"{encoder.spec.name}, {patches} patches")
    print(
        "| way | options | times as fast | cosine | labels agree, % |"
        + (" right, points |" if given.dinov2 else "")
    )
    print("|---|---|---|---|---|" + ("---|" if given.dinov2 else ""))
    for way in WAYS:
        print(row(encoder, way, cases, words), flush=True)


if __name__ == "__main__":
    main()
