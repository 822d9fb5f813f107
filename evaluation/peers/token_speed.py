"""What fewer tokens between two blocks of a tower save (``encoder.tokens``), and change, on random weights.

    .venv/bin/python evaluation/peers/token_speed.py [--model clip-b16-naclip-shared] [--side 448]

Processor time of one thread, all tokens against fewer; the mean cosine of features with and without; the share of
cells whose label agrees among 20 random text vectors. Random weights show what is saved; what trained ones lose
must be measured with ``ovseg evaluate``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tower_speed import EXAMPLE, random_model

from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.reduction import TokenReduction, TokensConfig
from ovseg.images.resize import prepare, working_size

WAYS = ((2, 0.7), (4, 0.7), (6, 0.7), (4, 0.5), (6, 0.5), (8, 0.5))  # after, share


def timed(encoder: RecipeEncoder, pixels: Tensor, *, rounds: int) -> tuple[Tensor, float]:
    """Features, and the median seconds of processor time."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        values = encoder.dense(pixels).values
        times.append(time.process_time() - start)
    return values, float(np.median(times))


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="clip-b16-naclip-shared")
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    encoder = random_model(given.model).image
    assert isinstance(encoder, RecipeEncoder)
    image = np.asarray(Image.open(EXAMPLE).convert("RGB"))
    spec = encoder.spec
    size = working_size(image.shape[:2], short_side=given.side, max_long_side=None, stride=spec.granularity)
    pixels, _ = prepare(image, spec, size=size)
    whole, seconds = timed(encoder, pixels, rounds=given.rounds)
    text = functional.normalize(torch.randn(20, whole.shape[1], generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.einsum("bchw,qc->bqhw", whole, text).argmax(1)
    print(f"{given.model}, {whole.shape[2]} x {whole.shape[3]} patches, all tokens: {seconds:.2f} s")
    print("| after | share | times as fast | cosine | labels agree |\n|---|---|---|---|---|")
    for after, share in WAYS:
        encoder.tower.between = TokenReduction(TokensConfig(after=after, share=share), len(encoder.tower.blocks))
        found, spent = timed(encoder, pixels, rounds=given.rounds)
        cosine = functional.cosine_similarity(found, whole, dim=1).mean()
        agree = (torch.einsum("bchw,qc->bqhw", found, text).argmax(1) == labels).float().mean()
        print(f"| {after} | {share} | {seconds / spent:.2f} | {cosine:.4f} | {agree:.3f} |", flush=True)


if __name__ == "__main__":
    main()
