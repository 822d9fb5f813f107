"""One frame after the other: words on key frames, what they say carried between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ConfigError, ShapeError
from ovseg.images.geometry import ImageGeometry
from ovseg.pipeline import memory
from ovseg.pipeline.cells import cell_shares, on_grid, with_padding
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.objects import ObjectSearch, find_objects
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter
from ovseg.result import SegmentationResult
from ovseg.video.memory import Memory, Remembered
from ovseg.video.objects import Numbered, Tracks, shares_of
from ovseg.video.options import VideoOptions
from ovseg.video.reading import Frame
from ovseg.vocabulary.labels import Vocabulary

_TINY = 1e-6  # probability that counts as none, and as much below 1 as all
_NONE = "none of them"
_FRAME = 24  # bytes for each pixel that reading and writing the clip hold beside a call


@dataclass(frozen=True)
class VideoFrame:
    """What one frame of a clip shows.

    Attributes:
        number: of the frame, from 0.
        seconds: when it is shown, from the first frame on.
        result: labels, scores, objects and the frame itself.
        ids: of the objects in ``result.instances``, in their order; an object keeps its number, from 1.
        key: whether words were asked, or the first mask was given, on this frame.
        match: mean over the cells of the largest cosine with what is remembered; None where nothing is.
    """

    number: int
    seconds: float
    result: SegmentationResult
    ids: tuple[int, ...]
    key: bool
    match: float | None


@dataclass(frozen=True)
class Asked:
    """What is looked for in a clip.

    Attributes:
        queries: the labels.
        first: (H, W) int32 label of each pixel of the first frame, −1 for none; then words are never asked.
        search: which objects, by words.
        background: whether a pixel may be none of the labels.
        refine: whether borders are pulled to edges; None as the model file says.
    """

    queries: QueryBank
    search: ObjectSearch
    first: npt.NDArray[np.int32] | None = None
    background: bool = True
    refine: bool | None = None

    @classmethod
    def by_mask(cls, first: npt.NDArray[np.int32], labels: Sequence[str], *, refine: bool | None = None) -> Asked:
        """The labels of a map of the first frame, (H, W) int32, −1 for none of them."""
        vocabulary = Vocabulary.of(labels, background=[_NONE])
        count = len(labels) + 1
        queries = QueryBank.of_vectors(
            torch.eye(count), range(count), vocabulary, space="first frame", logit_scale=1.0
        )
        search = ObjectSearch.of(vocabulary, instances=False, quality="fast")
        return cls(queries, search, first, refine=refine)


class Tracker:
    """Segments the frames of a clip in their order; what it holds does not grow with their number."""

    def __init__(self, segmenter: Segmenter, asked: Asked, options: VideoOptions) -> None:
        self.segmenter, self.asked, self.options = segmenter, asked, options
        self.memory = Memory(options)
        self.tracks = Tracks(options)

    def check(self, frame: Frame) -> None:
        """Refuse a frame that the segmenter's bound on memory has no room for.

        Raises:
            TooLargeError: it has too many pixels.
        """
        bound = self.segmenter.memory
        if bound is not None:
            queries, searched = self.asked.queries, bool(self.asked.search.labels)
            # frames are stacked where they are compared, which copies them
            count = 2 * (1 + self.options.context)
            rows = max(queries.classes, len(queries.class_of_query))
            needed = memory.Asked(queries.labels, rows, objects=searched, beside=_FRAME, remembered=count)
            bound.check(f"frame {frame.number}", (frame.pixels.shape[0], frame.pixels.shape[1]), needed)

    @torch.inference_mode()
    def step(self, frame: Frame) -> VideoFrame:
        """What the next frame shows.

        Raises:
            ConfigError: the model's features do not lie on one grid.
            ShapeError: the mask of the first frame has another size.
            TooLargeError: as ``check``.
        """
        self.check(frame)
        encoded = self._encode(frame)
        keys = functional.normalize(encoded.features.likeness[0].float(), dim=0)
        recalled = self.memory.recall(keys)
        match = None if recalled is None else float(encoded.unpadded(recalled[1]).mean())
        carried, weak = (None, 0.0) if recalled is None else (recalled[0], self._weak(recalled[1], encoded))
        if carried is None or (weak > self.options.cut and self.asked.first is None):
            self.tracks.forget()
            carried = recalled = None
        if self.asked.first is not None:
            key = carried is None
            logits = self._first(encoded) if carried is None else self._carried(carried, encoded)
        else:
            due = self.options.is_key(frame.number, objects=self.asked.search.wanted)
            key = carried is None or due or weak > self.options.lost
            logits = self._words(encoded, recalled) if key else self._carried(carried, encoded)
        result, objects = self._decide(logits, encoded, carried, key=key)
        self._remember(keys, logits, encoded, carried, objects, key=key)
        order = sorted(objects, key=lambda number: (-objects[number].score, number))
        if self.asked.search.wanted:
            result = replace(result, instances=tuple(objects[number] for number in order))
        return VideoFrame(frame.number, frame.seconds, result, tuple(order), key, match)

    @property
    def labels(self) -> tuple[str, ...]:
        """What is looked for."""
        return self.asked.queries.vocabulary.labels

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """All that the next frames depend on, besides the arguments: tensors and text, for a safetensors file."""
        return self.memory.state(), {"tracks": self.tracks.state()}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Go on from what ``state`` gave.

        Raises:
            KeyError, ValueError: it is something else.
        """
        self.memory.restore({name: value.to(self.segmenter.device) for name, value in tensors.items()})
        self.tracks.restore(facts["tracks"])

    def _encode(self, frame: Frame) -> EncodedImage:
        encoded = self.segmenter.encode(frame.pixels)
        if not isinstance(encoded.geometry, ImageGeometry):
            raise ConfigError(
                f"model '{self.segmenter.config.name}' sees windows that do not lie on one grid, so that nothing "
                "can be carried from frame to frame; choose another model"
            )
        return encoded

    def _weak(self, match: Tensor, encoded: EncodedImage) -> float:
        """The share of the cells that match nothing remembered."""
        return float((encoded.unpadded(match) < self.options.weak).float().mean())

    def _first(self, encoded: EncodedImage) -> ClassLogits:
        """The logits of the map that was given of the first frame."""
        first = self.asked.first
        assert first is not None
        if first.shape != encoded.geometry.original:
            raise ShapeError(
                f"the mask must have the size of the first frame, {encoded.geometry.original}, got {first.shape}; "
                "draw it on that frame (H, W)"
            )
        labels = torch.from_numpy(np.where(first < 0, self.asked.queries.labels, first)).long()
        one_hot = functional.one_hot(labels, self.asked.queries.classes).permute(2, 0, 1).float()
        maps = with_padding(cell_shares(one_hot, encoded), encoded).to(encoded.device)
        return self._as_logits(maps, encoded)

    def _carried(self, carried: Remembered | None, encoded: EncodedImage) -> ClassLogits:
        assert carried is not None
        return self._as_logits(carried.maps, encoded)

    def _words(self, encoded: EncodedImage, recalled: tuple[Remembered, Tensor] | None) -> ClassLogits:
        """What words say, mixed with what was carried where that has a match."""
        logits = self.segmenter.logits(encoded, self.asked.queries)
        if recalled is None:
            return logits
        trust = (recalled[1] - self.options.weak) / (self.options.sure - self.options.weak)
        share = self.options.blend * on_grid(trust.clamp(0, 1)[None], logits.grid)
        maps = torch.lerp(logits.probabilities(logits.values), on_grid(recalled[0].maps, logits.grid), share)
        return replace(logits, values=_unnormalised(maps, apart=logits.apart), class_of_row=None)

    def _as_logits(self, maps: Tensor, encoded: EncodedImage) -> ClassLogits:
        apart = self.asked.first is None and self.segmenter.config.scoring.over == "each"
        values = _unnormalised(maps, apart=apart)
        return ClassLogits(values, encoded.features.stride, self.asked.queries, apart=apart)

    def _decide(
        self, logits: ClassLogits, encoded: EncodedImage, carried: Remembered | None, *, key: bool
    ) -> tuple[SegmentationResult, Numbered]:
        """The frame's labels, and its objects by number."""
        asked = self.asked
        decide = partial(self.segmenter.decide, encoded=encoded, background=asked.background, refine=asked.refine)
        found = None
        if key and asked.search.labels:
            decision, found = find_objects(self.segmenter.model, asked.search, encoded, logits, decide)
        else:
            decision = decide(logits)
        names = asked.queries.vocabulary.labels
        shares = {} if carried is None else carried.objects
        objects = self.tracks.seen(shares, decision.index, names, encoded) if shares else {}
        if found is not None:
            objects = self.tracks.renew(objects, found)
        result = SegmentationResult(
            index_map=decision.index.cpu().numpy(),
            labels=names,
            score_map=decision.best.clamp(0, 1).cpu().numpy(),
            presence=dict(zip(names, decision.presence.tolist(), strict=True)),
            image=encoded.image,
            things=asked.search.reported,
            provenance=dict(self.segmenter.info),
        )
        return result, objects

    def _remember(
        self,
        keys: Tensor,
        logits: ClassLogits,
        encoded: EncodedImage,
        carried: Remembered | None,
        objects: Numbered,
        *,
        key: bool,
    ) -> None:
        maps = on_grid(logits.probabilities(logits.values), encoded.features.grid)
        if key:
            self.memory.begin(Remembered(keys, maps, shares_of(objects, encoded)))
        else:
            assert carried is not None
            self.memory.add(replace(carried, maps=maps))


def _unnormalised(maps: Tensor, *, apart: bool) -> Tensor:
    """Values that have these probabilities (K, h, w)."""
    return maps.clamp(_TINY, 1 - _TINY).logit() if apart else maps.clamp_min(_TINY**2).log()
