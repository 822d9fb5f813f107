"""What all tabs of the page share: calls that wait their turn, the files of visitors, and the form of photos."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import gradio as gr
import numpy as np
import numpy.typing as npt

from ovseg.errors import OvsegError
from ovseg.serve.photos import Photo
from ovseg.serve.refusals import Refusal, sentence
from ovseg.serve.service import Service

AnswerT = TypeVar("AnswerT")
_PAUSE = 0.2  # seconds between two tries to get a place in the queue


def photo_input(label: str, *, height: int, name: str | None = None) -> gr.Image:
    """A picture that visitors give; handlers get the path of the file they sent.

    gradio would open it first, in whatever format it is; here nothing is decoded before it is checked.
    """
    image = gr.Image(label=label, sources=["upload", "clipboard"], height=height, min_width=200, elem_id=name)
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image


class Desk:
    """Takes the questions of visitors to the worker.

    Args:
        service: what answers.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._folder = TemporaryDirectory(prefix="ovseg-page-")
        service.at_the_end(self._folder.cleanup)

    @property
    def folder(self) -> Path:
        """For files of this server's lifetime."""
        return Path(self._folder.name)

    def ask(self, call: Callable[[], AnswerT]) -> AnswerT:
        """What ``call`` gives in the worker's thread.

        Raises:
            gr.Error: what the visitor is told.
        """
        future: Future[AnswerT] | None = None
        try:
            future = self.service.worker.submit(call)
            return future.result(self.service.limits.seconds)
        except OvsegError as error:
            raise told(error) from error
        except (TimeoutError, CancelledError) as error:
            raise told(
                f"this takes longer than {self.service.limits.seconds:g} seconds; ask less, or later"
            ) from error
        finally:
            if future is not None:
                future.cancel()

    def photo(self, path: str | None) -> Photo:
        """The photo that a visitor gave.

        Raises:
            gr.Error: there is none, or it cannot be one.
        """
        if path is None:
            raise told("give a photo first")
        limits = self.service.limits
        try:
            content = Path(path).read_bytes()
            if len(content) > limits.max_bytes:
                raise Refusal(413, f"the photo has more than the limit of {limits.max_bytes} bytes; shrink it")
            return Photo.of(content, max_pixels=limits.max_pixels)
        except OvsegError as error:
            raise told(error) from error


class InTurn:
    """The model for long work beside the worker: each photo that it encodes waits its turn there.

    Args:
        service: whose model and worker.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service.segmenter, name)

    def encode(self, image: Any, **options: Any) -> Any:
        """As ``Segmenter.encode``."""
        return self._in_turn(lambda: self._service.segmenter.encode(image, **options))

    def encode_batch(self, images: Sequence[npt.NDArray[np.uint8]]) -> Any:
        """As ``Segmenter.encode_batch``."""
        return self._in_turn(lambda: self._service.segmenter.encode_batch(images))

    def _in_turn(self, call: Callable[[], AnswerT]) -> AnswerT:
        while True:
            try:
                return self._service.worker.submit(call).result()
            except Refusal as refusal:
                if refusal.status != 429:
                    raise
                time.sleep(_PAUSE)


def told(error: object) -> gr.Error:
    """What a visitor reads, in one sentence and no traceback."""
    return gr.Error(sentence(error), print_exception=False)
