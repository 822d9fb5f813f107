"""The picture of a concept set: what was retrieved, where the seeds lie, what the references find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from ovseg.concepts.evidence import Features, feature_maps
from ovseg.errors import ImageError
from ovseg.images.load import load_image
from ovseg.images.sheets import captioned, evidence_tile, grid, headline, stack, thumbnail
from ovseg.images.sources import read_key

if TYPE_CHECKING:
    from ovseg.concepts.concept_set import ConceptReference, ConceptSet, Seed
    from ovseg.pipeline.segmenter import Segmenter


def concept_picture(concepts: ConceptSet, segmenter: Segmenter, *, images: int, side: int) -> Image.Image:
    """Per concept a headline and a grid of tiles; see ``ConceptSet.show``."""
    parts: list[Image.Image] = []
    for concept in concepts.references:
        tiles = [
            _tile(concept, seed, segmenter, features=concepts.features, side=side)
            for seed in concept.seeds[:images]
        ]
        verdict = "" if concept.found else ": this bank does not seem to contain it"
        text = (
            f"{concept.name}: confidence {concept.confidence:.2f} (purity {concept.purity:.2f}, separation "
            f"{concept.separation:.2f}), {len(concept.embeddings)} reference(s){verdict}"
        )
        parts += [headline(text, width=10 * side // 2), grid(tiles, columns=5)]
    return stack(parts)


def _tile(
    concept: ConceptReference, seed: Seed, segmenter: Segmenter, *, features: Features, side: int
) -> Image.Image:
    """An image with its mask and seed; struck seeds say so."""
    caption = f"{seed.support:.2f} " + (f"ref {seed.reference}" if seed.reference >= 0 else "left out")
    try:
        encoded = segmenter.encode(load_image(read_key(seed.path)))
    except ImageError:
        return captioned(thumbnail(seed.path, side), "gone")
    mask = concept.evidence(feature_maps(encoded.features, features)) >= 0
    inside = encoded.unpadded(mask).cpu().numpy()
    return captioned(evidence_tile(encoded.image, inside, (seed.row, seed.column), side=side), caption)
