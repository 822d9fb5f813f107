"""The segmenter: a model that answers ``segment(image, labels)``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg._version import __version__
from ovseg.encoders.compiled import compile_blocks
from ovseg.encoders.spec import DenseFeatures, choose_device, choose_dtype
from ovseg.errors import ConfigError, ImageError
from ovseg.heads.prompts import encode_tokens
from ovseg.identity import digest
from ovseg.images.load import ImageSource, load_image
from ovseg.images.resize import prepare, restore, working_size
from ovseg.models.build import build_model
from ovseg.models.config import for_benchmark, read_model_config
from ovseg.models.model import Model
from ovseg.pipeline.decide import Scorer
from ovseg.pipeline.encode import encode_image, whole_image
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import score
from ovseg.pipeline.modifiers import likely_labels
from ovseg.pipeline.queries import TextBank, encode_phrases, queries
from ovseg.pipeline.text_cache import TextCache
from ovseg.result import SegmentationResult
from ovseg.vocabulary.labels import Background, Concept, Vocabulary
from ovseg.vocabulary.templates import Templates

if TYPE_CHECKING:
    from ovseg.concepts import ConceptSet
    from ovseg.concepts.evidence import ConceptSegmenter

Labels: TypeAlias = Sequence[str | Concept] | Vocabulary


class Segmenter:
    """Segments images by words with one model. Made by ``ovseg.load``; holds no state between images."""

    def __init__(
        self, model: Model, *, device: torch.device, cache: Path | None = None, benchmark: str | None = None
    ) -> None:
        self.model = model
        self.config = model.config
        self.benchmark = benchmark  # whose constants the configuration has, if any
        self.device = device
        self._scorer = Scorer(model.config)
        self.templates = Templates.named(model.config.templates)
        self._cache = TextCache(cache)
        self._recent: dict[Hashable, TextBank] = {}

    @property
    def info(self) -> dict[str, str]:
        """What identifies this segmenter in a manifest: model, weights, version."""
        templates = f"{self.config.templates}:{digest(self.templates.templates)}"
        facts = {**self.model.info, "templates": templates, "version": __version__}
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
        features, geometry = encode_image(self._joint, pixels, self.model.image.spec, self.config.input)
        vector = None if self.config.prune is None else self._whole(pixels)
        return EncodedImage(pixels, features, geometry, vector)

    @torch.inference_mode()
    def _whole(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """The image as a whole, at the size of one window, to its unit vector (C,)."""
        spec, sizes = self.model.image.spec, self.config.input
        side = sizes.window or sizes.short_side
        size = working_size(image.shape[:2], short_side=side, max_long_side=2 * side, stride=spec.granularity)
        return whole_image(self.model.image, prepare(image, spec, size=size)[0].to(self.device))

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

        reads = self.model.head.reads_tokens
        vectors = encode_tokens(self.model.text(), phrases) if reads else self._cache.fetch(key, encode)
        made = self.model.head.phrases(vectors.to(self.device))
        return TextBank(
            embeddings=made.values,
            phrases=made,
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
        logits, stride = score(self.model.head, encoded.features, bank, smoothing=self.config.smoothing)
        if any(weight != 1 for weight in bank.vocabulary.weights):
            logits[: len(bank.vocabulary)] += torch.tensor(bank.vocabulary.weights).log().to(logits)[:, None, None]
        if self.config.prune is not None and encoded.vector is not None:
            likely = likely_labels(encoded.vector, bank, self.config.prune, space=self.model.image.spec.space)
            logits[: len(bank.vocabulary)][~likely] = -torch.inf
        refine = self.config.refine.default if refine is None else refine
        decision = self._scorer.decide(
            logits,
            encoded,
            stride=stride,
            labels=len(bank.vocabulary),
            background=background is not None,
            refine=refine,
        )
        scores = None
        if keep_scores:
            whole = restore(decision.probabilities[None], encoded.geometry, stride=stride)
            scores = whole[0].half().cpu().numpy()
        names = bank.vocabulary.labels
        return SegmentationResult(
            index_map=decision.index.cpu().numpy(),
            labels=names,
            score_map=decision.best.clamp(0, 1).cpu().numpy(),
            presence=dict(zip(names, decision.presence.tolist(), strict=True)),
            scores=scores,
            image=encoded.image,
            provenance=self._provenance(background, refine),
        )

    def segment_batch(
        self, images: Iterable[ImageSource], labels: Labels, **options: Any
    ) -> Iterator[SegmentationResult]:
        """``segment`` for many images, in order, one result in memory at a time.

        The next image is decoded while the current one is encoded. Keyword arguments are those of ``segment``.

        Raises:
            ImageError: one image in place of a list, or an image cannot be read.
        """
        from concurrent.futures import ThreadPoolExecutor

        if isinstance(images, str | bytes | PathLike) or (
            isinstance(images, np.ndarray) and images.shape[2:] in {(), (3,)}
        ):
            raise ImageError(f"images must be a list of images, got one {type(images).__name__}; write [image]")
        limit = options.get("max_pixels", 200_000_000)
        sources = iter(images)
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(load_image, source, max_pixels=limit) for source in [*_take(sources, 2)]]
            while ahead:
                pixels = ahead.pop(0).result()
                ahead += [pool.submit(load_image, source, max_pixels=limit) for source in _take(sources, 1)]
                yield self.segment(pixels, labels, **options)

    def with_concepts(self, concepts: ConceptSet) -> ConceptSegmenter:
        """A segmenter that knows learned concepts besides plain labels.

        Raises:
            SpaceError: the concepts were learned with another model.
        """
        from ovseg.concepts.evidence import ConceptSegmenter

        return ConceptSegmenter(self, concepts)

    def _provenance(self, background: Background, refine: bool) -> dict[str, Any]:
        shown = background if background is None or isinstance(background, str) else list(background)
        settings = self.config.model_dump(include={"input", "smoothing", "background"})
        return {**self.info, **settings, "contrast": shown, "refine": refine}


def _key(labels: Labels, background: Background) -> Hashable | None:
    """What a text bank is remembered by, cheaply: plain words; None for anything else."""
    plain = background is None or isinstance(background, str)
    for words in (labels, () if plain else background):
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            return None
    return tuple(labels), background if plain else tuple(background)  # type: ignore[arg-type]


def load(
    name: str = "mini",
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: str | Path | None = None,
    cache: str | Path | None = None,
    compile: bool = False,
) -> Segmenter:
    """A segmenter by the name of its model file.

    Args:
        name: one of ``ovseg.list_models()``, or the path of a model's YAML file.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "bfloat16", "float16".
        weights: folder with the weights, in place of the package's or the hub's.
        cache: folder for text vectors; None takes ``~/.cache/ovseg/text``.
        compile: run transformer blocks through ``torch.compile``; the first image waits for the compiler.

    Raises:
        ModelError: unknown model, missing or damaged weights, no such device, or nothing to compile or with.
    """
    config = read_model_config(name)
    chosen = choose_device(device)
    model = build_model(
        config,
        device=chosen,
        dtype=choose_dtype(dtype, chosen),
        weights=Path(weights) if weights is not None else None,
    )
    if compile:
        compile_blocks(model.image, device=chosen)
    return Segmenter(model, device=chosen, cache=Path(cache or Path.home() / ".cache" / "ovseg" / "text"))


def _take(source: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        try:
            yield next(source)
        except StopIteration:
            return
