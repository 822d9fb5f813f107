"""The segmenter: a model that answers ``segment(image, labels)``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg._version import __version__
from ovseg.encoders.registry import Model, build_model, for_benchmark, read_model_config
from ovseg.encoders.spec import DenseFeatures, choose_device, choose_dtype
from ovseg.errors import ConfigError
from ovseg.images import ImageGeometry, ImageSource, load_image, prepare, restore
from ovseg.matching import match
from ovseg.paint import Winners, find_winners
from ovseg.refine import refine_maps
from ovseg.result import SegmentationResult
from ovseg.text import Templates, TextBank, TextCache, encode_phrases, queries
from ovseg.vocabulary import Background, Concept, Vocabulary
from ovseg.windows import encode_windows, plan_input

if TYPE_CHECKING:
    from ovseg.bank import ConceptSet
    from ovseg.bank.use import ConceptSegmenter

Labels: TypeAlias = Sequence[str | Concept] | Vocabulary


@dataclass(frozen=True)
class EncodedImage:
    """An image encoded once, to be asked for many vocabularies.

    Attributes:
        image: (H, W, 3) uint8, upright.
        features: (1, D, h, w) in the model's joint space.
        geometry: sizes on the way.
    """

    image: npt.NDArray[np.uint8]
    features: DenseFeatures
    geometry: ImageGeometry


class Segmenter:
    """Segments images by words with one model. Made by ``ovseg.load``; holds no state between images."""

    def __init__(
        self, model: Model, *, device: torch.device, cache: Path | None = None, benchmark: str | None = None
    ) -> None:
        self.model = model
        self.config = model.config
        self.benchmark = benchmark  # whose constants the configuration has, if any
        self.device = device
        self.templates = Templates.named(model.config.templates)
        self._cache = TextCache(cache)
        self._recent: dict[Hashable, TextBank] = {}

    @property
    def info(self) -> dict[str, str]:
        """What identifies this segmenter in a manifest: model, weights, version."""
        facts = {
            "model": self.config.name,
            "weights": self.model.weights_hash,
            "version": __version__,
            "templates": self.config.templates,
        }
        return facts if self.benchmark is None else {**facts, "constants": self.benchmark}

    def for_benchmark(self, name: str) -> Segmenter:
        """The same networks with the constants that the model's paper gives for the benchmark ``name``.

        Returns this segmenter itself where the model file has none for it.

        Raises:
            ConfigError: a constant is wrong, or would change the networks, which are already built.
        """
        config = for_benchmark(self.config, name)
        if config == self.config:
            return self
        if config.encoder != self.config.encoder:
            raise ConfigError(
                f"model '{config.name}': the constants of '{name}' must leave the section 'encoder' alone; "
                "write a model file of its own for it"
            )
        model = replace(self.model, config=config)
        return Segmenter(model, device=self.device, cache=self._cache.folder, benchmark=name)

    def encode(self, image: ImageSource, *, max_pixels: int = 200_000_000) -> EncodedImage:
        """Run the encoder once; the result can be given to ``segment`` in place of the image.

        Args:
            image: path, encoded bytes, binary stream, PIL image or (H, W, 3) uint8 array.
            max_pixels: larger images are refused before they are decoded.

        Raises:
            ImageError: the image cannot be read or is too large.
        """
        pixels = load_image(image, max_pixels=max_pixels)
        height, width = pixels.shape[:2]
        spec = self.model.image.spec
        size, window = plan_input((height, width), self.config.input, multiple=spec.granularity)
        tensor, geometry = prepare(pixels, spec, size=size)
        return EncodedImage(pixels, self._features(tensor, window), geometry)

    @torch.inference_mode()
    def _features(self, pixels: Tensor, window: int | None) -> DenseFeatures:
        """(1, 3, H, W) to the joint space, in windows of ``window`` pixels unless that is None."""
        if window is None:
            return self._joint(pixels)
        sizes = self.config.input
        return encode_windows(
            self._joint,
            pixels,
            window=window,
            overlap=sizes.overlap,
            multiple=self.model.image.spec.granularity,
            splice=sizes.splice,
        )

    def _joint(self, pixels: Tensor) -> DenseFeatures:
        return self.model.head.pixels(self.model.image.dense(pixels.to(self.device)))

    @torch.inference_mode()
    def text_bank(self, labels: Labels, *, background: Background = None) -> TextBank:
        """The phrases of a vocabulary in the joint space; kept in memory and on disk.

        Raises:
            VocabularyError: a label cannot be used; the entry is named.
        """
        key = _key(labels, background) or Vocabulary.of(labels, background=background)
        if key not in self._recent:
            if len(self._recent) >= 8:
                self._recent.pop(next(iter(self._recent)))
            vocabulary = key if isinstance(key, Vocabulary) else Vocabulary.of(labels, background=background)
            self._recent[key] = self._make_bank(vocabulary)
        return self._recent[key]

    def _make_bank(self, vocabulary: Vocabulary) -> TextBank:
        phrases, owner = queries(vocabulary)
        key: dict[str, object] = {**self.info, "phrases": phrases}

        def encode() -> Tensor:
            return encode_phrases(phrases, self.templates, self.model.text().encode)

        vectors = self._cache.fetch(key, encode).to(self.device)
        return TextBank(
            embeddings=self.model.head.phrases(vectors),
            label_of_query=torch.tensor(owner),
            vocabulary=vocabulary,
            templates=self.config.templates,
            space=self.model.head.space,
            logit_scale=self.config.logit_scale,
        )

    @torch.inference_mode()
    def segment(
        self,
        image: ImageSource | EncodedImage,
        labels: Labels,
        *,
        background: Background = "auto",
        refine: bool | None = None,
        keep_scores: bool = False,
        max_pixels: int = 200_000_000,
    ) -> SegmentationResult:
        """Which of ``labels`` each pixel shows.

        Args:
            image: anything ``encode`` takes, or what it returned.
            labels: strings or ``Concept``; at least one.
            background: "auto" lets everyday contrast phrases compete, so that a pixel may be none of the
                labels; None gives every pixel a label; a list is your own contrast phrases.
            refine: pull the borders to image edges (PAMR); None follows the model file.
            keep_scores: also return the probability of every label at every pixel.
            max_pixels: larger images are refused before they are decoded.

        Returns:
            A result of the size of the upright image.

        Raises:
            VocabularyError: a label cannot be used.
            ImageError: the image cannot be read.
        """
        bank = self.text_bank(labels, background=background)
        encoded = image if isinstance(image, EncodedImage) else self.encode(image, max_pixels=max_pixels)
        logits = match(encoded.features, bank, smoothing=self.config.smoothing)
        probabilities = logits.softmax(0)
        refine = self.config.refine.default if refine is None else refine
        count = len(bank.vocabulary)
        presence = self._presence(probabilities[:count])
        if background is not None:
            probabilities = self._drop_absent(probabilities, presence, count)
        winners = self._winners(encoded, probabilities, refine=refine)
        index = winners.index if background is None else self._reject(winners, count)
        scores = None
        if keep_scores:
            stride = encoded.features.stride
            scores = restore(probabilities[None, :count], encoded.geometry, stride=stride)[0].half().cpu().numpy()
        return SegmentationResult(
            index_map=index.cpu().numpy(),
            labels=bank.vocabulary.labels,
            score_map=winners.best.clamp(0, 1).cpu().numpy(),
            presence=dict(zip(bank.vocabulary.labels, presence.tolist(), strict=True)),
            scores=scores,
            image=encoded.image,
            provenance=self._provenance(background, refine),
        )

    def segment_batch(
        self, images: Iterable[ImageSource], labels: Labels, **options: Any
    ) -> Iterator[SegmentationResult]:
        """``segment`` for many images, in order, one result in memory at a time.

        The next image is decoded while the current one is encoded. Keyword arguments are those of ``segment``.
        """
        from concurrent.futures import ThreadPoolExecutor

        limit = options.get("max_pixels", 200_000_000)
        sources = iter(images)
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(load_image, source, max_pixels=limit) for source in [*_take(sources, 2)]]
            while ahead:
                pixels = ahead.pop(0).result()
                ahead += [pool.submit(load_image, source, max_pixels=limit) for source in _take(sources, 1)]
                yield self.segment(pixels, labels, **options)

    def _winners(self, encoded: EncodedImage, maps: Tensor, *, refine: bool) -> Winners:
        stride = encoded.features.stride
        if not refine:
            return find_winners(maps, encoded.geometry, stride=stride)
        settings = self.config.refine
        refined = refine_maps(
            encoded.image,
            maps,
            encoded.geometry,
            stride=stride,
            iterations=settings.iterations,
            dilations=settings.dilations,
            long_side=settings.long_side,
        )
        winners = find_winners(refined.maps, refined.geometry, stride=1)
        index = refined.classes[winners.index.long()].to(torch.int32)
        return Winners(index, winners.best, winners.second)

    def with_concepts(self, concepts: ConceptSet) -> ConceptSegmenter:
        """A segmenter that knows learned concepts besides plain labels.

        Raises:
            SpaceError: the concepts were learned with another model.
        """
        from ovseg.bank.use import ConceptSegmenter

        return ConceptSegmenter(self, concepts)

    def _presence(self, probabilities: Tensor) -> Tensor:
        """(L, h, w) probabilities to (L,) calibrated presence in [0, 1]: the best cell, through a logistic."""
        settings = self.config.background
        evidence = probabilities.flatten(1).amax(1).clamp(1e-6, 1 - 1e-6).logit()
        return torch.sigmoid(settings.presence_slope * evidence + settings.presence_offset)

    def _drop_absent(self, probabilities: Tensor, presence: Tensor, count: int) -> Tensor:
        absent = presence < self.config.background.presence
        probabilities = probabilities.clone()
        probabilities[:count][absent] = 0
        return probabilities

    def _reject(self, winners: Winners, count: int) -> Tensor:
        """Index map with −1 where a background phrase wins, or the best probability or the margin is too low.

        Source of the margin: ActiveSAM, 2026: none where s1·sqrt(s1−s2) is under a threshold. Of the plain
        threshold on s1: the papers whose model files set it, as SCLIP, ECCV 2024.
        """
        settings = self.config.background
        margin = winners.best * (winners.best - winners.second).clamp_min(0).sqrt()
        none = (winners.index >= count) | (margin < settings.margin) | (winners.best < settings.threshold)
        return torch.where(none, -1, winners.index)

    def _provenance(self, background: Background, refine: bool) -> dict[str, Any]:
        shown = background if background is None or isinstance(background, str) else list(background)
        settings = self.config.model_dump(include={"input", "smoothing", "background"})
        return {**self.info, **settings, "contrast": shown, "refine": refine}


def _key(labels: Labels, background: Background) -> Hashable | None:
    """What a text bank is remembered by, cheaply: plain words; None for anything else."""
    contrast = (background,) if background is None or isinstance(background, str) else tuple(background)
    words = tuple(labels) if isinstance(labels, list | tuple) else None
    if words is None or not all(isinstance(word, str) for word in words):
        return None
    if not all(isinstance(word, str | None) for word in contrast):
        return None
    return words, contrast, isinstance(background, str)


def load(
    name: str = "mini",
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: str | Path | None = None,
    cache: Path | None = None,
) -> Segmenter:
    """A segmenter by the name of its model file.

    Args:
        name: one of ``ovseg.list_models()``, or the path of a model's YAML file.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "bfloat16", "float16".
        weights: folder with the weights, in place of the package's or the hub's.
        cache: folder for text vectors; None takes ``~/.cache/ovseg/text``.

    Raises:
        ModelError: unknown model, missing or damaged weights, or no such device.
    """
    config = read_model_config(name)
    chosen = choose_device(device)
    model = build_model(
        config,
        device=chosen,
        dtype=choose_dtype(dtype, chosen),
        weights=Path(weights) if weights is not None else None,
    )
    return Segmenter(model, device=chosen, cache=cache or Path.home() / ".cache" / "ovseg" / "text")


def _take(source: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        try:
            yield next(source)
        except StopIteration:
            return
