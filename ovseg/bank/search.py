"""What a search takes and gives back: text, images, regions of images and mixtures become one unit vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ovseg.bank.vectors import image_vector
from ovseg.errors import ShapeError, VocabularyError
from ovseg.images.find import names_image
from ovseg.images.reading import Reading
from ovseg.vocabulary.labels import Concept, check_phrase

if TYPE_CHECKING:
    from PIL import Image

    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.segmenter import Segmenter

NEGATIVE_WEIGHT = 0.5
"""How much of a negative query's unit vector is subtracted from that of the query."""


@dataclass(frozen=True)
class Region:
    """A part of an image as a query.

    Attributes:
        image: anything ``Segmenter.encode`` takes.
        box: top, left, bottom, right in pixels of the upright image; bottom and right are not included.
    """

    image: Any
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Retrieved:
    """The nearest images of n queries.

    Attributes:
        rows: (n, k) int64 row of the bank.
        cosine: (n, k) float32, descending.
        paths: per query its k paths.
        reading: how the images were read, for the contact sheet.
    """

    rows: NDArray[np.int64]
    cosine: NDArray[np.float32]
    paths: tuple[tuple[str, ...], ...]
    reading: Reading | None = None

    def __post_init__(self) -> None:
        if self.rows.shape != self.cosine.shape or self.rows.ndim != 2:
            raise ShapeError(f"rows and cosine must both be (n, k), got {self.rows.shape} and {self.cosine.shape}")

    def contact_sheet(self, *, columns: int = 10, side: int = 128) -> Image.Image:
        """A picture of the retrieved images, one block of rows per query, each with its cosine."""
        from ovseg.images.sheets import contact_sheet

        return contact_sheet(self.paths, self.cosine, self.reading, columns=columns, side=side)


def query_vector(query: Any, segmenter: Segmenter, *, negative: Any = None) -> NDArray[np.float32]:
    """(D,) float32 unit vector of a query.

    Args:
        query: words, or the path or address of an image; a ``Concept``, whose label is words, whatever it looks
            like; a ``pathlib.Path``, PIL image, array or encoded image; a ``Region``; a list of these, which count
            alike; or a mapping from these to weights.
        segmenter: the bank's model.
        negative: another query, which is taken away: "cone" without "ice cream".

    Raises:
        VocabularyError: an empty mixture, or a text that cannot be used.
        ImageError: an image that cannot be read, or a text that looks like a path and names no file.
        ShapeError: query and negative are the same, or a box is outside its image.
    """
    vector = _mixture(query, segmenter)
    if negative is not None:
        other = _mixture(negative, segmenter)
        if float(vector @ other) > 0.999:
            raise ShapeError("the query and its negative are the same; leave out the negative or choose another")
        vector = vector - NEGATIVE_WEIGHT * other
    unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def _mixture(query: Any, segmenter: Segmenter) -> NDArray[np.float32]:
    if isinstance(query, Mapping):
        parts = [(part, float(weight)) for part, weight in query.items()]
    elif isinstance(query, Sequence) and not isinstance(query, str | bytes):
        parts = [(part, 1.0) for part in query]
    else:
        return _single(query, segmenter)
    if not parts:
        raise VocabularyError("a mixture needs at least one query, got none; give text or an image")
    total: NDArray[np.float32] = np.sum([weight * _single(part, segmenter) for part, weight in parts], axis=0)
    return total / max(float(np.linalg.norm(total)), 1e-9)


def _single(query: Any, segmenter: Segmenter) -> NDArray[np.float32]:
    from ovseg.pipeline.encoded import EncodedImage

    if isinstance(query, Concept):
        return text_vector(query.label, segmenter)
    if isinstance(query, str) and not names_image(query):
        return text_vector(query, segmenter)
    if isinstance(query, Region):
        return region_vector(segmenter.encode(query.image), query.box)
    encoded = query if isinstance(query, EncodedImage) else segmenter.encode(query)
    return image_vector(encoded)


def text_vector(text: str, segmenter: Segmenter) -> NDArray[np.float32]:
    """(D,) float32 unit vector of a phrase in the joint space.

    Raises:
        VocabularyError: the phrase cannot be used.
    """
    phrase = Concept(check_phrase(text, where="the query"))  # a query may have commas, a plain label may not
    embedding = segmenter.queries([phrase]).embeddings[0].float()
    vector: NDArray[np.float32] = functional.normalize(embedding, dim=0).cpu().numpy()
    return vector


def region_vector(encoded: EncodedImage, box: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """(D,) float32: unit mean of the joint features over the cells that a box touches.

    Raises:
        ShapeError: the box is empty or not inside the image.
    """
    rows, columns = encoded.geometry.block(box, stride=encoded.features.stride)
    with torch.inference_mode():
        cells = encoded.features.values[0, :, rows, columns].float().flatten(1)
        vector: NDArray[np.float32] = functional.normalize(cells.mean(1), dim=0).cpu().numpy()
    return vector
