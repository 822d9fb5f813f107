"""The segmenter: a model that answers ``segment(image, labels)``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ovseg._version import __version__
from ovseg.backends.answers import AnsweringHead
from ovseg.errors import ConfigError, ImageError
from ovseg.identity import digest
from ovseg.images.load import ImageSource, read_image
from ovseg.images.reading import MAX_PIXELS, Reading
from ovseg.models.config import for_benchmark, with_examples, with_input, with_objects
from ovseg.models.model import Model
from ovseg.pipeline.batches import path_of, stream
from ovseg.pipeline.chain import modifiers_of
from ovseg.pipeline.colours import things_of
from ovseg.pipeline.decide import Decision, DecisionRules
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.examples import ExampleReader, judges_words, lesson_mark
from ovseg.pipeline.logits import ClassLogits, answered_logits, class_logits
from ovseg.pipeline.memory import Asked, Memory, bounded
from ovseg.pipeline.modifiers import Modifier
from ovseg.pipeline.objects import ObjectSearch, Quality, find_objects
from ovseg.pipeline.photos import PhotoEncoder
from ovseg.pipeline.queries import QueryBank, phrases_of
from ovseg.pipeline.selection import Using, select
from ovseg.pipeline.selection.prompts import Box, Points, check_previous, join_prompts
from ovseg.pipeline.whole import WholeImage
from ovseg.pipeline.wording import Labels, Wording, asked_labels
from ovseg.result import SegmentationResult, Selection
from ovseg.vocabulary.labels import Background, Concept, Vocabulary, without_pictures
from ovseg.vocabulary.word_lists import WordList

if TYPE_CHECKING:
    from ovseg.concepts import ConceptSet


class Segmenter:
    """Segments images by words with one model: ``encode``, ``logits``, ``decide``, one after the other.

    Made by ``ovseg.load``. It holds no state between images, and threads may share it. It can be pickled, networks
    and all, so that spawned processes may have one each. A process that is forked after torch has computed anything
    hangs at its first product, as its copies of torch's threads are gone: start workers with "spawn".

    Args:
        model: the networks.
        device: where they are.
        cache: folder for text vectors; None keeps none.
        benchmark: whose constants the configuration has, if any.
        modifiers: what changes the logits besides the weights of labels and the model file's pruning.
        memory: what bounds the memory of a call; None for nothing.
    """

    reads_examples = True  # a concept's images are looked at; what an evaluation asks before it gives shots

    def __init__(
        self,
        model: Model,
        *,
        device: torch.device,
        cache: Path | None = None,
        benchmark: str | None = None,
        modifiers: Sequence[Modifier] = (),
        memory: Memory | None = None,
    ) -> None:
        self.model = model
        self.config = model.config
        self.benchmark = benchmark
        self.device = device
        self.added = tuple(modifiers)
        self.memory = None if memory is None else memory.of_model(model)
        self.rules = DecisionRules(model.config, self.memory)
        self._photos = PhotoEncoder(model, device=device, memory=self.memory)
        self.wording = Wording(model, device=device, cache=cache)
        self._examples = ExampleReader()

    @property
    def side_by_side(self) -> bool:
        """Whether photos go side by side (``pipeline.side_by_side``): on a processor, unless memory is bounded."""
        return self.device.type == "cpu" and self.memory is None

    @property
    def modifiers(self) -> tuple[Modifier, ...]:
        """What changes the logits, in order, besides what queries bring along."""
        return modifiers_of(self.model, (), self.added)

    @property
    def info(self) -> dict[str, str]:
        """What identifies this segmenter part by part: equal values mean equal results for equal labels."""
        templates = f"{self.config.templates}:{digest(self.wording.templates.templates)}"
        facts = {**self.model.info, "templates": templates, "version": __version__}
        if self.benchmark is not None:
            facts["constants"] = self.benchmark
        for modifier in self.modifiers:
            facts.update(modifier.info)
        return facts

    def identity(
        self, labels: Labels | None = None, *, background: Background = "auto", refine: bool | None = None
    ) -> dict[str, str]:
        """Everything besides the image that decides what ``segment`` returns; what a kept result is known by.

        Raises:
            VocabularyError: a label cannot be used.
        """
        wanted = asked_labels(labels, self.added)
        if isinstance(wanted, QueryBank):
            asked = digest(asdict(wanted.vocabulary), wanted.embeddings.tolist(), wanted.class_of_query.tolist())
        else:
            words, shown = without_pictures(wanted)
            vocabulary = self.wording.vocabulary(words, background)
            pictures = [lesson_mark(shown, self.config.examples)] if shown or judges_words(self) else []
            coloured = () if self.config.colours is None else things_of(vocabulary)
            asked = digest(asdict(vocabulary), phrases_of(vocabulary), *pictures, *map(asdict, coloured))
        return {**self.info, "asked": asked, "background": str(background), "refine": str(self._refines(refine))}

    @property
    def words(self) -> tuple[tuple[str, ...], ...] | None:
        """The phrases that a paper asks each class of its benchmark by; None where labels are the caller's."""
        return WordList.named(self.config.words).classes if self.config.words else None

    def for_benchmark(self, name: str, *, method: str | None = None) -> Segmenter:
        """The same networks and modifiers with the constants that a paper gives for a benchmark.

        Args:
            name: of the benchmark.
            method: whose constants; None takes those of this model's own file.

        Raises:
            ModelError: there is no such method.
            ConfigError: no constants are stated, one is wrong, or would change the networks, which are built.
        """
        config = for_benchmark(self.config, name, method=method)
        if config.encoder != self.config.encoder:
            raise ConfigError(
                f"model '{config.name}': the constants of '{name}' must leave the section 'encoder' alone; "
                "write a model file of its own for it"
            )
        stated = name if method is None else f"{name} of {method}"
        return self._changed(model=replace(self.model, config=config), benchmark=stated)

    def with_objects(self, **fields: Any) -> Segmenter:
        """The same networks, finding objects by these fields of ``ObjectsConfig``, whatever the quality.

        Raises:
            ConfigError: there is no such field, or it cannot be so.
        """
        return self._changed(model=replace(self.model, config=with_objects(self.config, **fields)))

    def with_examples(self, **fields: Any) -> Segmenter:
        """The same networks, learning from pictures of labels by these fields of ``ExamplesConfig``.

        Raises:
            ConfigError: there is no such field, or it cannot be so.
        """
        return self._changed(model=replace(self.model, config=with_examples(self.config, **fields)))

    def with_input(self, **fields: Any) -> Segmenter:
        """The same networks, seeing images by these fields of ``InputConfig``.

        Raises:
            ConfigError: there is no such field, or it cannot be so.
        """
        return self._changed(model=replace(self.model, config=with_input(self.config, **fields)))

    def with_modifiers(self, *modifiers: Modifier) -> Segmenter:
        """The same segmenter with these modifiers added, after those it has."""
        return self._changed(modifiers=(*self.added, *modifiers))

    def with_concepts(self, concepts: ConceptSet) -> Segmenter:
        """A segmenter that knows learned concepts besides plain labels; of two of a name the later counts.

        Raises:
            SpaceError: the concepts were learned with another model, or there are no logits to add to.
        """
        return self._changed(modifiers=concepts.joined(self))

    def encode(
        self,
        image: ImageSource,
        *,
        max_pixels: int = MAX_PIXELS,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] | None = None,
    ) -> EncodedImage:
        """Run the encoder once; the result can be given to ``segment`` in place of the image.

        Args:
            image: path, address, encoded bytes, binary stream, PIL image, array or tensor; see
                ``images.load.load_image``.
            max_pixels: larger images are refused before they are decoded.
            value_range: the values that are black and white, such as (0, 4095); None asks the file.
            bands: which are red, green and blue, or the one that is grey, counted from 1; None asks the file.

        Raises:
            ImageError: the image cannot be read or is too large.
        """
        reading = Reading.of(value_range, bands, max_pixels=max_pixels)
        return self._encoded(image, bounded(reading, self.memory, Asked()))

    def encode_batch(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[EncodedImage]:
        """``encode`` of decoded images (H, W, 3) uint8; those of one size run through the encoder together.

        Models with a second pass take them one by one.
        """
        return self._photos.first(images)

    def queries(self, labels: Labels | None = None, *, background: Background = None) -> QueryBank:
        """The queries of a vocabulary in the joint space; kept in memory and, if they are words, on disk.

        Args:
            labels: what to look for; None for what the modifiers know, such as learned concepts.
            background: see ``segment``.

        Raises:
            VocabularyError: a label cannot be used (the entry is named), or there is none.
        """
        wanted = asked_labels(labels, self.added)
        if isinstance(wanted, QueryBank):
            return wanted
        if self.memory is not None:
            self.memory.check_labels(len(wanted.labels if isinstance(wanted, Vocabulary) else wanted))
        words, shown = without_pictures(wanted)
        queries = self.wording.queries(words, background)
        return self._examples.taught(self, queries, shown) if shown or judges_words(self) else queries

    @torch.inference_mode()
    def logits(self, encoded: EncodedImage, queries: QueryBank) -> ClassLogits:
        """The logits of every class at every cell, after all modifiers.

        Raises:
            SpaceError: the queries are of another model.
        """
        found = self.plain_logits(encoded, queries)
        if self._photos.twice:
            encoded = self._photos.second(found, encoded)
            found = self.plain_logits(encoded, queries)
        for modifier in modifiers_of(self.model, queries.modifiers, self.added):
            found = modifier(found, encoded)
        return found

    def plain_logits(self, encoded: EncodedImage, queries: QueryBank) -> ClassLogits:
        """The logits of every class by words alone, before any modifier; with ``whole:`` by the whole image too."""
        head, over = self.model.head, self.config.scoring.over
        if isinstance(head, AnsweringHead):
            found = answered_logits(head, encoded, queries, self.config.objects)
        else:
            smoothing = self.config.smoothing
            found = class_logits(head, encoded.features, queries, smoothing=smoothing, by_query=over == "phrases")
        whole = WholeImage.of_model(self.model)
        found = found if whole is None else whole(found, encoded)
        return replace(found, apart=over == "each")

    @torch.inference_mode()
    def decide(
        self, logits: ClassLogits, encoded: EncodedImage, *, background: bool = True, refine: bool | None = None
    ) -> Decision:
        """A label for every pixel.

        Args:
            logits: of the image.
            encoded: the image.
            background: whether a pixel may be none of the labels.
            refine: see ``segment``.
        """
        return self.rules.decide(logits, encoded, background=background, refine=self._refines(refine))

    def segment(
        self,
        image: ImageSource | EncodedImage,
        labels: Labels | None = None,
        *,
        background: Background = "auto",
        refine: bool | None = None,
        instances: bool | Sequence[str] = False,
        quality: Quality | None = None,
        keep_scores: bool = False,
        min_area: int = 0,
        min_score: float = 0,
        max_pixels: int = MAX_PIXELS,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] | None = None,
    ) -> SegmentationResult:
        """Which of ``labels`` each pixel shows.

        Args:
            image: anything ``encode`` takes, or what it returned.
            labels: strings or ``Concept``, at least one; or a ``QueryBank``. None looks for the learned concepts
                that the segmenter knows.
            background: "auto" lets everyday contrast phrases compete, so that a pixel may be none of the
                labels; None gives every pixel a label; a list is your own contrast phrases.
            refine: pull the borders to image edges (PAMR); None follows the model file.
            instances: also find the objects of the labels that are things (True), or of these labels.
            quality: "fast" or "best", as the section ``objects`` of the model file says; None takes "best" where
                objects are asked for, else "fast". Best also corrects the label map by the objects of all things.
            keep_scores: also return the probability of every label at every pixel.
            min_area: connected parts of a label with fewer pixels become none of the labels, or, where every pixel
                gets a label, what is nearest; smaller objects are dropped.
            min_score: pixels whose label has a lower score, in [0, 1], become none of the labels, before
                ``min_area`` is looked at; objects with a lower score are dropped.
            max_pixels, value_range, bands: see ``encode``.

        Returns:
            A result of the size of the upright image.

        Raises:
            VocabularyError: a label cannot be used, or none is a thing whose objects could be found.
            ImageError: the image cannot be read.
        """
        queries = self.queries(labels, background=background)
        search = ObjectSearch.of(queries.vocabulary, instances=instances, quality=quality)
        kept = {"keep_scores": keep_scores, "instances": instances, "quality": quality}
        reading = Reading.of(value_range, bands, max_pixels=max_pixels)
        encoded = self._encoded(image, self.reading_within(reading, queries, **kept))
        logits = self.logits(encoded, queries)
        decide = partial(self.decide, encoded=encoded, background=background is not None, refine=refine)
        decision, objects = find_objects(self.model, search, encoded, logits, decide)
        names = queries.vocabulary.labels
        asked = {"min_area": min_area, "min_score": min_score} | search.described
        result = SegmentationResult(
            index_map=decision.index.cpu().numpy(),
            labels=names,
            score_map=decision.best.clamp(0, 1).cpu().numpy(),
            presence=dict(zip(names, decision.presence.tolist(), strict=True)),
            scores=self.rules.scores(logits, encoded, refine=self._refines(refine)) if keep_scores else None,
            image=encoded.image,
            instances=objects,
            things=search.reported,
            provenance=self._provenance(background, refine, encoded, asked),
        )
        result = result.without_unsure(min_score) if min_score else result
        return result.without_small(min_area, fill=background is None) if min_area else result

    def select(
        self,
        image: ImageSource | EncodedImage,
        *,
        positive: Points = (),
        negative: Points = (),
        box: Box | None = None,
        scribble: Points | None = None,
        mask: npt.NDArray[Any] | None = None,
        text: str | Concept | None = None,
        previous: Selection | None = None,
        using: Using | None = None,
    ) -> Selection:
        """What is pointed at in the image: by clicks, a box, a scribble, a rough mask, words, or several of them.

        Encode the image once and give that: a click then takes as long as the answer alone.

        Args:
            image: anything ``encode`` takes, or what it returned.
            positive, negative: points (x, y) in pixels from the left and from the top, on the thing and off it.
            box: x0, y0, x1, y1 in pixels around the thing.
            scribble: points of a line drawn on the thing, or (H, W) bool, the pixels of one.
            mask: (H, W) bool, roughly the thing.
            text: what it is. Alone, its surest region is selected; with a click, the click says which.
            previous: the selection of the round before; its prompts count on.
            using: "sam" asks the SAM of the model file's section ``objects.best``, or else the embedded one;
                "features" the model's own features, in a few milliseconds and by cells; None takes "sam".

        Returns:
            The selection, of the size of the upright image; empty where the text alone finds nothing.

        Raises:
            ShapeError: a point or box lies outside the image, a box has no area, a mask has another size, a point
                is on and off at once, or nothing is given.
            ImageError: the image cannot be read, or ``previous`` is of another.
            VocabularyError: the text cannot be used.
            ModelError: weights of the SAM are missing.
        """
        encoded = self._encoded(image, bounded(Reading(), self.memory, Asked(objects=using != "features")))
        check_previous(previous, encoded.image)
        prompts = join_prompts(
            encoded.geometry.original,
            None if previous is None else previous.prompts,
            positive=positive,
            negative=negative,
            box=box,
            scribble=scribble,
            mask=mask,
            text=text,
        )
        return select(self, encoded, prompts, previous=previous, using=using)

    def segment_batch(
        self,
        images: Iterable[ImageSource],
        labels: Labels | None = None,
        *,
        batch_size: int = 4,
        max_pixels: int = MAX_PIXELS,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] | None = None,
        on_error: str = "raise",
        **options: Any,
    ) -> Iterator[Any]:
        """``segment`` for many images, in order, as they are done.

        On an accelerator images are decoded ahead, and of ``batch_size`` that follow each other those of one size
        run through the encoder together. On a processor up to four images run side by side, each in its share of
        torch's threads. Keyword arguments are those of ``segment``.

        Args:
            images: each anything that ``segment`` takes.
            labels: see ``segment``.
            batch_size: images that an accelerator gets together; fewer where memory is bounded.
            max_pixels, value_range, bands: see ``encode``.
            on_error: what an image that cannot be read does: "raise" its ImageError once those before it are done,
                "skip" leaves it out, "return" gives the ImageError in the place of its result.
            options: see ``segment``.

        Raises:
            ImageError: one image in place of a list, or an image cannot be read.
            ConfigError: ``on_error`` is none of the three.
            TypeError: ``segment`` has no such keyword; the nearest is offered.
        """
        return stream(
            self,
            images,
            labels,
            batch_size=batch_size,
            reading=Reading.of(value_range, bands, max_pixels=max_pixels),
            on_error=on_error,
            options=options,
        )

    def reading_within(self, reading: Reading, labels: Labels | None, **options: Any) -> Reading:
        """``reading`` that also refuses a photo for which the bound on memory has no room.

        Args:
            reading: what is said of images besides.
            labels, options: see ``segment``.
        """
        if self.memory is None:
            return reading
        queries = self.queries(labels, background=options.get("background", "auto"))
        return bounded(reading, self.memory, Asked.of(queries, **options))

    def _encoded(self, image: ImageSource | EncodedImage, reading: Reading) -> EncodedImage:
        if isinstance(image, EncodedImage):
            if reading.says:
                raise ImageError("the image is encoded already, got a range or bands; give them to encode")
            if reading.check is not None:
                reading.check("the image", image.geometry.original)
            return image
        picture = read_image(image, reading)
        (encoded,) = self.encode_batch([picture.pixels])
        return replace(encoded, source=path_of(image), note=picture.note)

    def _refines(self, refine: bool | None) -> bool:
        return self.config.refine.default if refine is None else refine

    def _changed(self, **changes: Any) -> Segmenter:
        """A segmenter like this one with other arguments; what is kept of texts and pictures is shared."""
        given: dict[str, Any] = {
            "model": self.model,
            "device": self.device,
            "cache": self.wording.cache.folder,
            "benchmark": self.benchmark,
            "modifiers": self.added,
            "memory": self.memory,
        }
        changed = Segmenter(**{**given, **changes})
        changed._examples = self._examples  # known by model and content
        return changed

    def _provenance(
        self, background: Background, refine: bool | None, encoded: EncodedImage, asked: dict[str, Any]
    ) -> dict[str, Any]:
        """What made a result; of the photo and of what was ``asked`` besides, what there is to say."""
        contrast = background if background is None or isinstance(background, str) else list(background)
        settings = self.config.model_dump(include={"input", "smoothing", "scoring", "background"})
        made = {**self.info, **settings, "contrast": contrast, "refine": self._refines(refine)}
        besides = {"source": encoded.source, "read": encoded.note, **asked}
        return made | {name: told for name, told in besides.items() if told}
