"""What the server knows: one model, its worker, the photos it keeps, and a bank if it was given one."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ovseg.images.load import load_image
from ovseg.serve.bodies import from_base64
from ovseg.serve.metrics import Metrics
from ovseg.serve.options import Access, Limits
from ovseg.serve.photos import Photo, PhotoCache, check_header
from ovseg.serve.places import read_inside
from ovseg.serve.refusals import Refusal
from ovseg.serve.requests import Example, PhotoFields, SearchRequest, SegmentRequest, SelectRequest
from ovseg.serve.worker import Worker
from ovseg.vocabulary.labels import Concept
from ovseg.vocabulary.shown_labels import ALONE, Shown, join_shown

if TYPE_CHECKING:
    from ovseg.bank import ImageBank
    from ovseg.pipeline.segmenter import Segmenter
    from ovseg.result import SegmentationResult, Selection


class Service:
    """Answers requests that were read; what needs the model is called in the worker's thread alone.

    Args:
        segmenter: the model.
        access: which files may be named.
        limits: how much is allowed.
        bank: what ``search`` looks in; None answers that there is none.
    """

    def __init__(
        self, segmenter: Segmenter, *, access: Access, limits: Limits, bank: ImageBank | None = None
    ) -> None:
        self.segmenter, self.access, self.limits, self.bank = segmenter, access, limits, bank
        self.worker = Worker(limits.queue)
        self.photos = PhotoCache(segmenter, limits)
        self.metrics = Metrics()
        self._last: list[Callable[[], None]] = []

    def at_the_end(self, call: Callable[[], None]) -> None:
        """Have ``call`` called by ``close``."""
        self._last.append(call)

    def close(self) -> None:
        """Finish what was accepted, and clear up."""
        self.worker.close()
        for call in self._last:
            call()

    def photo(self, fields: PhotoFields, file: bytes | None = None) -> Photo:
        """The photo of a request.

        Raises:
            Refusal: there is none or several (422), it is too large (413), or of no format that is read (415).
        """
        given = {"file": file, "image": fields.image, "path": fields.path, "photo": fields.photo}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            got = " and ".join(named) or "none"
            raise Refusal(422, f"expected one photo, as 'file', 'image', 'path' or 'photo', got {got}; send one")
        if fields.photo is not None:
            return Photo(fields.photo)
        return Photo.of(self._content(fields, file), max_pixels=self.limits.max_pixels)

    def examples(self, examples: Sequence[Example]) -> list[tuple[Example, Photo]]:
        """The photos of the examples of a request, which together have no more pixels than one photo may have.

        Raises:
            Refusal: as ``photo``; or there are more pixels (413).
        """
        found, pixels = [], 0
        for each in examples:
            photo = self.photo(each)
            mask = 0 if each.mask is None else self._drawn(each.mask)[1]
            pixels += photo.pixels + mask
            if pixels > self.limits.max_pixels:
                limit = self.limits.max_pixels
                raise Refusal(413, f"the examples have more than the limit of {limit} pixels together; shrink them")
            found.append((each, photo))
        return found

    def check_labels(self, *lists: Sequence[Any]) -> None:
        """Refuse more labels than are allowed (422)."""
        count = sum(map(len, lists))
        if count > self.limits.max_labels:
            raise Refusal(
                422, f"expected at most {self.limits.max_labels} labels, got {count}; ask in several parts"
            )

    def segment(
        self, request: SegmentRequest, photo: Photo, examples: Sequence[tuple[Example, Photo]] = ()
    ) -> SegmentationResult:
        """In the worker: what the request asks of its photo.

        Raises:
            OvsegError: as ``Segmenter.segment``.
        """
        encoded = self.photos.encoded(photo)
        shown = [self._shown(example, pictured) for example, pictured in examples]
        return self.segmenter.segment(
            encoded,
            join_shown(request.labels, shown),
            background=None if request.background == "none" else request.background,  # type: ignore[arg-type]
            instances=request.instances,
            quality=request.quality,
            min_area=request.min_area,
            min_score=request.min_score,
        )

    def select(self, request: SelectRequest, photo: Photo) -> Selection:
        """In the worker: what the request points at; raises as ``Segmenter.select``."""
        found = self.segmenter.select(
            self.photos.encoded(photo),
            positive=request.positive,
            negative=request.negative,
            box=request.box,
            text=request.text,
            using=request.using,
        )
        return found if request.level is None else found.at(request.level)

    def search(self, request: SearchRequest, photo: Photo | None) -> list[dict[str, Any]]:
        """In the worker: the nearest photos of the bank, by path and cosine.

        Raises:
            Refusal: there is no bank (422), or neither words nor a photo.
        """
        if self.bank is None:
            raise Refusal(422, "this server has no bank to search; start it with --bank DIR")
        query = self.photos.encoded(photo) if photo is not None else as_words(request.text)
        without = None if request.without is None else as_words(request.without)
        found = self.bank.search(query, request.count, negative=without, regions=request.regions)
        pairs = zip(found.paths[0], found.cosine[0].tolist(), strict=True)
        return [{"path": self._named(path), "cosine": round(cosine, 6)} for path, cosine in pairs]

    def metrics_text(self) -> str:
        """What Prometheus reads."""
        photos = self.photos
        return self.metrics.text(
            {
                "cache_hits_total": photos.hits,
                "cache_misses_total": photos.misses,
                "cache_photos": len(photos),
                "cache_bytes": photos.size,
                "queue_taken": self.worker.taken,
                "queue_places": self.worker.places,
            }
        )

    def _content(self, fields: PhotoFields, file: bytes | None) -> bytes:
        if file is not None:
            return file
        if fields.image is not None:
            return from_base64(fields.image, where="image")
        return read_inside(self.access.folder, str(fields.path), max_bytes=self.limits.max_bytes)

    def _shown(self, example: Example, photo: Photo) -> Shown:
        if photo.content is None:
            image = self.photos.encoded(photo).image
        else:
            image = load_image(io.BytesIO(photo.content), max_pixels=self.limits.max_pixels)
        places = {
            "boxes": example.box,
            "points": example.point,
            "masks": None if example.mask is None else self._mask(example.mask),
        }
        given = [(kind, place) for kind, place in places.items() if place is not None]
        if len(given) > 1:
            raise Refusal(422, f"expected one of box, point and mask for '{example.label[:100]}', got several")
        kind, place = given[0] if given else (ALONE, None)
        return Shown(example.label, image, kind, tuple(place) if isinstance(place, list) else place)

    def _drawn(self, text: str) -> tuple[bytes, int]:
        """The file of a mask, and its pixels."""
        content = from_base64(text, where="mask")
        return content, check_header(content, max_pixels=self.limits.max_pixels) or self.limits.max_pixels

    def _mask(self, text: str) -> npt.NDArray[np.bool_]:
        content, _ = self._drawn(text)
        drawn: npt.NDArray[np.bool_] = load_image(content, max_pixels=self.limits.max_pixels).max(axis=2) > 0
        return drawn

    def _named(self, key: str) -> str:
        """A key of the bank as a client may name it: relative to the open folder, if it lies in it."""
        folder = self.access.folder
        if folder is not None and Path(key).is_relative_to(folder.resolve()):
            return str(Path(key).relative_to(folder.resolve()))
        return key


def as_words(text: str | None) -> Concept:
    """Words to search by; a plain text might be the path or address of a picture, which a search would open.

    Raises:
        Refusal: there are none (422).
        VocabularyError: they cannot be used.
    """
    if text is None or not text.strip():
        raise Refusal(422, "expected 'text' or a photo to search by, got neither; send one")
    return Concept(text)
