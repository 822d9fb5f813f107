"""Views of labelled images as the encoder sees them: frozen features, and the label map on a grid near theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.encoders.spec import DenseAndWholeEncoder, DenseFeatures, run_encoder
from ovseg.models.model import Model
from ovseg.pipeline.encode import encode_image
from ovseg.training.augment import Augmentation, make_view, nearest
from ovseg.training.data import Source, source_content
from ovseg.training.features import Arrays, FeatureCache

FINER = 4  # label maps are kept on a grid so many times finer than the features


@dataclass(frozen=True)
class View:
    """An image as the encoder sees it, and what is known of its pixels.

    Attributes:
        features: (h, w, C) float16.
        truth: (f·h, f·w) int16 class indices, f = FINER; −1 ignored, −2 none of the classes.
        confidence: (f·h, f·w) uint8, 255 is certain; None where every pixel is.
        structure: (h, w, S) float16 unit vectors that say which cells belong together; None without such maps.
        whole: (C,) float16 vector of the whole image, which a window keeps; None where it is not read.
    """

    features: NDArray[np.float16]
    truth: NDArray[np.int16]
    confidence: NDArray[np.uint8] | None = None
    structure: NDArray[np.float16] | None = None
    whole: NDArray[np.float16] | None = None

    def window(self, rows: int, columns: int, *, corner: tuple[float, float]) -> View:
        """The part of so many cells that begins at the share ``corner`` in [0, 1) of the places there are."""
        height, width = self.features.shape[:2]
        top, left = int(corner[0] * (height - rows + 1)), int(corner[1] * (width - columns + 1))
        cells = (slice(top, top + rows), slice(left, left + columns))
        fine = (slice(top * FINER, (top + rows) * FINER), slice(left * FINER, (left + columns) * FINER))
        return View(
            self.features[cells],
            self.truth[fine],
            None if self.confidence is None else self.confidence[fine],
            None if self.structure is None else self.structure[cells],
            self.whole,
        )


class Views:
    """The views of all images of a source, from the cache or computed when they are fetched.

    Args:
        source: the images.
        model: its image encoder runs.
        cache: of the features.
        augmentation: how views differ from their image; view 0 is the image itself.
        seed: of the augmentation.
        whole: keep the vectors of whole images too, where the encoder has them.
    """

    numbers: type[np.signedinteger[Any]] = np.int16  # what label maps are kept as

    def __init__(
        self,
        source: Source,
        model: Model,
        cache: FeatureCache,
        *,
        augmentation: Augmentation,
        seed: int,
        whole: bool = False,
    ) -> None:
        self.source, self.cache = source, cache
        self._model, self._augmentation, self._seed = model, augmentation, seed
        self._whole = whole and isinstance(model.image, DenseAndWholeEncoder)
        self._key = {"encoder": model.encoder_digest, **source.reading, **({"whole": True} if self._whole else {})}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.source.names)

    @property
    def stride(self) -> int:
        """Pixels of the encoder's input per cell."""
        return self._model.image.spec.stride

    def fetch(self, index: int, view: int = 0) -> View:
        """A view of the image at ``index``; pixels that are not trained on are ignored.

        Raises:
            DatasetError: a file is missing or damaged, or has changed since the run began.
        """
        arrays = self.arrays(index, view)
        truth, confidence = self.source.select(arrays["truth"], arrays.get("confidence"))
        return View(arrays["features"], truth, confidence, arrays.get("structure"), arrays.get("whole"))

    def arrays(self, index: int, view: int = 0) -> Arrays:
        """What the cache keeps of a view, with the whole label map; see ``fetch``."""
        key = {**self._key, "image": self.source.names[index], "view": view}
        if view:
            key |= {"augmentation": self._augmentation.model_dump(), "seed": self._seed, "others": self._others}
        return self.cache.fetch(key, self.source.files(index), lambda: self._make(index, view))

    @cached_property
    def _others(self) -> str:
        """What the images are known by that a view may hold parts of."""
        return source_content(self.source, self.cache) if self._augmentation.joins else ""

    def _make(self, index: int, view: int) -> Arrays:
        seen = make_view(self.source, index, view, augmentation=self._augmentation, seed=self._seed)
        encode = partial(run_encoder, self._model.image, whole=self._whole)
        dense, _ = encode_image(encode, seen.image, self._model.image.spec, self._model.config.input.on_one_grid)
        grid = (dense.grid[0] * FINER, dense.grid[1] * FINER)
        arrays: Arrays = {
            "features": _cells_last(dense.values),
            "truth": nearest(seen.truth, grid).astype(self.numbers),
        }
        if dense.structure is not None:
            arrays["structure"] = _cells_last(dense.structure)
        if dense.whole is not None:
            arrays["whole"] = dense.whole[0].to(torch.float16).cpu().numpy()
        if seen.confidence is not None:
            arrays["confidence"] = nearest(seen.confidence, grid)
        return arrays


def batch_of(
    views: Sequence[View], *, space: str, stride: int, device: torch.device | None = None
) -> tuple[DenseFeatures, Tensor, Tensor | None]:
    """Views of one size as a batch; all of them have a confidence, a structure and a whole, or none has.

    Returns:
        Features (B, C, h, w); truth (B, f·h, f·w) int64, on the CPU; confidence (B, f·h, f·w) in [0, 1] or None.
    """

    def stack(name: str, kind: Any) -> Tensor | None:
        arrays = [getattr(view, name) for view in views]
        if arrays[0] is None:
            return None
        # one by one, so that memory is laid out alike whether arrays come from the cache or not
        return torch.stack([torch.from_numpy(array.astype(kind)) for array in arrays])

    maps = {name: stack(name, np.float32) for name in ("features", "structure")}
    values, structure = (None if one is None else one.permute(0, 3, 1, 2).to(device) for one in maps.values())
    truth, confidence = stack("truth", np.int64), stack("confidence", np.float32)
    whole = stack("whole", np.float32)
    assert values is not None and truth is not None
    whole = None if whole is None else whole.to(device)
    dense = DenseFeatures(values, space, stride, structure=structure, whole=whole)
    return dense, truth, None if confidence is None else confidence.to(device) / 255


def _cells_last(maps: Tensor) -> NDArray[np.float16]:
    """(1, C, h, w) to (h, w, C) float16, so that a window is a few runs of memory."""
    values: NDArray[np.float16] = maps[0].permute(1, 2, 0).to(torch.float16).cpu().numpy()
    return values
