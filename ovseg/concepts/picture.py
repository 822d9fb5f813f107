"""The picture of a concept set: what was retrieved, where the seeds lie, what the references find."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ovseg.concepts.evidence import Features, feature_maps
from ovseg.errors import ImageError
from ovseg.escape import one_line
from ovseg.images.load import load_image
from ovseg.images.sheets import captioned, evidence_tile, grid, headline, stack, thumbnail
from ovseg.images.sources import read_key

if TYPE_CHECKING:
    from ovseg.concepts.concept_set import ConceptReference, ConceptSet, Seed
    from ovseg.pipeline.segmenter import Segmenter


_LETTERS = 20  # of a file's name that fit below a tile


def concept_picture(concepts: ConceptSet, segmenter: Segmenter, *, images: int, side: int) -> Image.Image:
    """Per concept a headline and a grid of tiles; see ``ConceptSet.show``."""
    parts: list[Image.Image] = []
    for concept in concepts.references:
        seeds = sorted(concept.seeds, key=lambda seed: not seed.verdict)  # what a person said comes first
        tiles = [
            seed_tile(concept, seed, segmenter, features=concepts.features, side=side) for seed in seeds[:images]
        ]
        verdict = "" if concept.found else ": this bank does not seem to contain it"
        text = (
            f"{concept.name}: confidence {concept.confidence:.2f} (purity {concept.purity:.2f}, separation "
            f"{concept.separation:.2f}), {len(concept.embeddings)} reference(s){verdict}"
        )
        parts += [headline(text, width=10 * side // 2), grid(tiles, columns=5)]
    return stack(parts)


def seed_tile(
    concept: ConceptReference, seed: Seed, segmenter: Segmenter, *, features: Features, side: int
) -> Image.Image:
    """An image with its mask and seed, what became of the seed, and the name of the file."""
    used = f"ref {seed.reference}" if seed.reference >= 0 else "left out"
    told = seed.verdict if seed.verdict == "rejected" else f"{seed.support:.2f} {used} {seed.verdict}".rstrip()
    caption = f"{told}\n{one_line(Path(seed.path).name)[-_LETTERS:]}"
    try:
        encoded = segmenter.encode(load_image(read_key(seed.path)))
    except ImageError:
        return captioned(thumbnail(seed.path, side), caption.replace(told, "gone"))
    mask = concept.evidence(feature_maps(encoded.features, features)) >= 0
    inside = encoded.unpadded(mask).cpu().numpy()
    tile = evidence_tile(encoded.image, inside, (seed.row, seed.column), side=side, verdict=seed.verdict)
    return captioned(tile, caption)
