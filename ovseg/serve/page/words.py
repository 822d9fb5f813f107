"""The first tab: words find things, clicks select one, and a selection becomes a label for the next photos."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import gradio as gr

from ovseg.assets import asset_root
from ovseg.errors import OvsegError
from ovseg.escape import for_markdown, one_line
from ovseg.files import sha256_of_bytes, write_json
from ovseg.result.storage import COCO_FILE
from ovseg.serve.page.desk import Desk, photo_input, told
from ovseg.serve.photos import Photo
from ovseg.vocabulary.labels import Concept, split_labels

if TYPE_CHECKING:
    from PIL import Image

    from ovseg.concepts import ConceptSet
    from ovseg.result import SegmentationResult, Selection

_ON, _OFF = "the thing", "not the thing"
_LEVELS = ("what fits best", "whole", "part", "subpart")
_EXAMPLES = (("coffee.jpg", "cup, spoon, table"), ("cat.jpg", "cat, wall"), ("temple.jpg", "temple, tree, sky"))
_COLUMNS = ["label", "area", "presence", "objects"]


@dataclass(frozen=True)
class Session:
    """What one visitor has before them.

    Attributes:
        photo: the one that was given last.
        positive, negative: clicks in it.
        selection: what they select.
        kept: labels that selections show, by name.
        concepts: learned in the second tab.
    """

    photo: Photo | None = None
    positive: tuple[tuple[float, float], ...] = ()
    negative: tuple[tuple[float, float], ...] = ()
    selection: Selection | None = field(default=None, repr=False)
    kept: tuple[Concept, ...] = ()
    concepts: ConceptSet | None = None

    def of(self, photo: Photo) -> Session:
        """The session with this photo before it; clicks stay where it is the same."""
        if self.photo is not None and self.photo.mark == photo.mark:
            return self
        return replace(self, photo=photo, positive=(), negative=(), selection=None)


class WordsTab:
    """The first tab.

    Args:
        desk: where questions go.
        session: what the visitor has before them, shared with the other tabs.
    """

    def __init__(self, desk: Desk, session: gr.State) -> None:
        self._desk = desk
        with gr.Row():
            with gr.Column(min_width=300):
                photo = photo_input("Photo", height=300, name="photo")
                words = gr.Textbox(label="Words, with commas between", placeholder="cat, road", elem_id="words")
                with gr.Row():
                    least = gr.Slider(0, 0.95, 0, step=0.05, label="Least score", min_width=140)
                    objects = gr.Checkbox(label="Count objects", min_width=140)
                kept = gr.CheckboxGroup([], label="Labels shown by example", visible=False, elem_id="kept")
                find = gr.Button("Find", variant="primary", elem_id="find")
            with gr.Column(min_width=300):
                shown = gr.Image(
                    label="Result: click in it to select a thing",
                    interactive=False,
                    format="png",
                    buttons=["fullscreen"],
                    elem_id="result",
                )
                status = gr.Markdown(elem_id="status")
                table = gr.Dataframe(headers=_COLUMNS, interactive=False, label="Found", elem_id="table")
                zipped = gr.DownloadButton("Download all", interactive=False, elem_id="download")
                with gr.Accordion("Selected by clicks", open=True):
                    with gr.Row():
                        mode = gr.Radio([_ON, _OFF], value=_ON, label="A click means", min_width=140)
                        level = gr.Dropdown(list(_LEVELS), value=_LEVELS[0], label="How much of it", min_width=140)
                    with gr.Row():
                        place = gr.Textbox(
                            label="Or type x, y", placeholder="120, 80", min_width=140, elem_id="place"
                        )
                        anew = gr.Button("Forget clicks", min_width=140)
                    with gr.Row():
                        name = gr.Textbox(label="Name it", placeholder="my mug", min_width=140, elem_id="name")
                        keep = gr.Button("Keep as a label", min_width=140, elem_id="keep")
        with gr.Row(), gr.Column(min_width=200):  # a column of its own does not widen a narrow page
            _add_examples(photo, words)
        asked = [photo, words, least, objects, kept, session]
        gr.on(
            [find.click, words.submit],
            self.find,
            asked,
            [shown, table, status, zipped, session],
            api_visibility="private",
        )
        pointed = [photo, mode, level, session]
        shown.select(self.click, pointed, [shown, status, session], api_visibility="private")
        place.submit(self.typed, [place, *pointed], [shown, status, session], api_visibility="private")
        anew.click(self.forget, session, [status, session], api_visibility="private")
        gr.on(
            [keep.click, name.submit],
            self.keep,
            [name, session],
            [kept, name, status, session],
            api_visibility="private",
        )

    def find(
        self, path: str | None, words: str, least: float, objects: bool, kept: list[str], session: Session
    ) -> tuple[Any, ...]:
        """Overlay, table, status, download, session."""
        photo = self._desk.photo(path)
        labels = _labels(words, kept, session)
        result, overlay = self._desk.ask(lambda: self._find(photo, labels, session, least=least, objects=objects))
        rows = [
            [
                one_line(row.label),
                f"{row.area:.1%}",
                f"{row.presence:.2f}",
                "" if row.objects is None else row.objects,
            ]
            for row in result.table()
        ]
        file = self._zip(result, photo)
        return overlay, rows, _summary(result), gr.DownloadButton(value=file, interactive=True), session.of(photo)

    def click(
        self, path: str | None, mode: str, level: str, session: Session, event: gr.SelectData
    ) -> tuple[Any, ...]:
        """Overlay of the selection, status, session."""
        x, y = event.index
        return self._point(path, (float(x), float(y)), mode, level, session)

    def typed(self, text: str, path: str | None, mode: str, level: str, session: Session) -> tuple[Any, ...]:
        """The same for a place that was typed."""
        try:
            x, y = (float(part) for part in text.split(","))
        except ValueError as error:
            raise told(f"expected x, y in pixels, such as 120, 80, got '{text}'") from error
        return self._point(path, (x, y), mode, level, session)

    def forget(self, session: Session) -> tuple[str, Session]:
        """Status, session without clicks."""
        return "Clicks are forgotten.", replace(session, positive=(), negative=(), selection=None)

    def keep(self, name: str, session: Session) -> tuple[Any, ...]:
        """Kept labels, an empty name, status, session with the selection as a label."""
        if session.selection is None:
            raise told("select something first: click on it in the result")
        try:
            concept = session.selection.to_concept(name)
        except OvsegError as error:
            raise told(error) from error
        others = tuple(each for each in session.kept if each.label != concept.label)
        session = replace(session, kept=(*others, concept))
        names = [each.label for each in session.kept]
        status = f"Kept as **{for_markdown(concept.label)}**: give the next photo and press Find."
        return gr.CheckboxGroup(choices=names, value=names, visible=True), "", status, session

    def _find(
        self, photo: Photo, labels: list[str | Concept], session: Session, *, least: float, objects: bool
    ) -> tuple[SegmentationResult, Image.Image]:
        service = self._desk.service
        segmenter = service.segmenter
        service.check_labels(labels)
        if session.concepts is not None:
            segmenter = segmenter.with_concepts(session.concepts)
        encoded = service.photos.encoded(photo)
        result = segmenter.segment(encoded, labels, instances=objects, min_score=least)
        return result, result.overlay()

    def _point(
        self, path: str | None, point: tuple[float, float], mode: str, level: str, session: Session
    ) -> tuple[Any, ...]:
        session = session.of(self._desk.photo(path))  # as it was left, if the model refuses the click
        if mode == _ON:
            session = replace(session, positive=(*session.positive, point))
        else:
            session = replace(session, negative=(*session.negative, point))
        selection = self._desk.ask(lambda: self._select(session))
        if level != _LEVELS[0]:
            selection = selection.at(level)
        session = replace(session, selection=selection)
        share = selection.area / selection.mask.size
        status = f"Selected: {share:.1%} of the photo, score {selection.score:.2f}. Name it to keep it as a label."
        return selection.overlay(), status, session

    def _select(self, session: Session) -> Selection:
        assert session.photo is not None
        encoded = self._desk.service.photos.encoded(session.photo)
        return self._desk.service.segmenter.select(encoded, positive=session.positive, negative=session.negative)

    def _zip(self, result: SegmentationResult, photo: Photo) -> str:
        """A zip of overlay, index picture, JSON and COCO; named by what it holds."""
        with TemporaryDirectory(dir=self._desk.folder) as folder:
            result.save(folder)
            write_json(Path(folder) / COCO_FILE, result.to_coco())
            files = sorted(Path(folder).iterdir())
            mark = sha256_of_bytes(b"".join([photo.mark.encode(), *(file.read_bytes() for file in files)]))
            place = self._desk.folder / mark[:16] / "ovseg.zip"
            place.parent.mkdir(exist_ok=True)
            with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as zipped:
                for file in files:
                    zipped.write(file, file.name)
        return str(place)


def _labels(words: str, kept: list[str], session: Session) -> list[str | Concept]:
    shown = [each for each in session.kept if each.label in kept]
    names = {each.label for each in shown}
    labels: list[str | Concept] = [
        *dict.fromkeys(word for word in split_labels(words) if word not in names),
        *shown,
    ]
    if not labels:
        raise told("write what to find, such as cat, road")
    return labels


def _summary(result: SegmentationResult) -> str:
    found = [row for row in result.table() if row.area]
    if not found:
        return "None of the words was found."
    return "Found: " + ", ".join(f"{for_markdown(row.label)} {row.area:.1%}" for row in found)


def _add_examples(photo: gr.Image, words: gr.Textbox) -> None:
    folder = asset_root("examples")
    rows = [[str(folder / name), text] for name, text in _EXAMPLES if (folder / name).is_file()]
    if rows:
        gr.Examples(rows, [photo, words], label="Photos to try")
