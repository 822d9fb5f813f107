"""The third tab: two models side by side on one photo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

import ovseg
from ovseg.models.catalogue import list_models
from ovseg.serve.page.desk import Desk, photo_input, told
from ovseg.serve.photos import Photo
from ovseg.vocabulary.labels import split_labels

if TYPE_CHECKING:
    from PIL import Image

    from ovseg.pipeline.segmenter import Segmenter


class CompareTab:
    """The third tab. Besides the model that is served, the one asked last is kept in memory.

    Args:
        desk: where questions go.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._other: tuple[str, Segmenter] | None = None
        self._served = desk.service.segmenter.config.name
        here = [info.name for info in list_models() if info.local]
        names = list(dict.fromkeys([self._served, *here]))
        with gr.Row():
            photo = photo_input("Photo", height=220, name="compared")
            with gr.Column(min_width=220):
                words = gr.Textbox(
                    label="Words, with commas between", placeholder="cat, road", elem_id="compare-words"
                )
                run = gr.Button("Compare", variant="primary")
                if len(names) == 1:
                    gr.Markdown("Only one model is on this machine: `ovseg models fetch NAME` brings another.")
        with gr.Row():
            sides = []
            for side, value in (("Left", names[0]), ("Right", names[-1])):
                with gr.Column(min_width=300):
                    chosen = gr.Dropdown(names, value=value, label=side)
                    shown = gr.Image(label="Overlay", interactive=False, format="png", elem_id=side.lower())
                    sides.append((chosen, shown))
        (left, left_shown), (right, right_shown) = sides
        gr.on(
            [run.click, words.submit],
            self.compare,
            [photo, words, left, right],
            [left_shown, right_shown],
            api_visibility="private",
        )

    def compare(self, path: str | None, words: str, left: str, right: str) -> tuple[Any, Any]:
        """The two overlays."""
        photo, labels = self._desk.photo(path), split_labels(words)
        if not labels:
            raise told("write what to find, such as cat, road")
        one = self._desk.ask(lambda: self._overlay(left, photo, labels))
        return one, self._desk.ask(lambda: self._overlay(right, photo, labels))

    def _overlay(self, name: str, photo: Photo, labels: list[str]) -> Image.Image:
        service = self._desk.service
        service.check_labels(labels)
        if name == self._served:
            return service.segmenter.segment(service.photos.encoded(photo), labels).overlay()
        if self._other is None or self._other[0] != name:
            self._other = None  # its memory first
            self._other = name, ovseg.load(name, device=str(service.segmenter.device))
        assert photo.content is not None
        limit = service.limits.max_pixels
        return self._other[1].segment(photo.content, labels, max_pixels=limit).overlay()
