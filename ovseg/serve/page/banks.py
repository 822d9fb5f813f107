"""The second tab: a folder becomes a bank, which is searched, and from which concepts are learned and corrected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ovseg.bank import ImageBank
from ovseg.concepts import learn_concepts
from ovseg.concepts.picture import seed_tile
from ovseg.concepts.refine import refine_concepts
from ovseg.errors import ImageError, OvsegError
from ovseg.escape import for_markdown, one_line
from ovseg.files import sha256_of_bytes
from ovseg.images.find import find_images
from ovseg.images.sheets import thumbnail
from ovseg.serve.page.desk import Desk, InTurn, photo_input, told
from ovseg.serve.page.words import Session
from ovseg.serve.places import inside
from ovseg.serve.refusals import Refusal
from ovseg.serve.service import as_words

if TYPE_CHECKING:
    from ovseg.concepts import ConceptSet
    from ovseg.concepts.concept_set import Seed

_SIDE = 200  # pixels of a thumbnail
_SEARCHED, _SEEDS = 24, 20
_MOST_PHOTOS = 20_000


@dataclass(frozen=True)
class Shelf:
    """What one visitor learns from.

    Attributes:
        bank: built here, or given to the server.
        concepts: learned last.
        seeds: shown, in order.
        chosen: which of them.
        accept, reject: keys of photos that the visitor decided on since.
    """

    bank: ImageBank | None = None
    concepts: ConceptSet | None = None
    seeds: tuple[Seed, ...] = ()
    chosen: int | None = None
    accept: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()


class BanksTab:
    """The second tab.

    Args:
        desk: where questions go.
        session: shared with the first tab, which gets the concepts.
    """

    def __init__(self, desk: Desk, session: gr.State) -> None:
        self._desk, self._model = desk, InTurn(desk.service)
        folder = desk.service.access.folder
        shelf = gr.State(Shelf())
        opened = "no folder is open: start the server with --folder DIR" if folder is None else f"inside {folder}"
        with gr.Row():
            place = gr.Textbox(".", label=f"Folder ({one_line(opened)})", elem_id="folder", scale=3, min_width=200)
            build = gr.Button("Build a bank of it", elem_id="build", scale=1, min_width=140)
        status = gr.Markdown(
            self._first_status(), min_height=72, elem_id="bank-status"
        )  # the progress shows over it
        with gr.Row():
            text = gr.Textbox(label="Search by words", placeholder="a red bus", elem_id="query", min_width=200)
            photo = photo_input("Or by a photo", height=140)
            search = gr.Button("Search", elem_id="search", min_width=140)
        found = gr.Gallery(label="Nearest photos", columns=6, height=240, object_fit="contain", elem_id="nearest")
        with gr.Row():
            name = gr.Textbox(
                label="Learn a concept from it", placeholder="traffic cone", elem_id="concept", scale=3
            )
            learn = gr.Button("Learn", elem_id="learn", scale=1, min_width=140)
        learned = gr.Markdown(elem_id="learned")
        seeds = gr.Gallery(
            label="What it was learned from", columns=5, height=320, object_fit="contain", elem_id="seeds"
        )
        with gr.Row():
            yes = gr.Button("This shows it", min_width=120)
            no = gr.Button("This does not", min_width=120)
            again = gr.Button("Learn again", min_width=120)
        outputs = {"api_visibility": "private"}
        build.click(self.build, [place, shelf], [status, shelf], **outputs)
        gr.on([search.click, text.submit], self.search, [text, photo, shelf], found, **outputs)
        gr.on(
            [learn.click, name.submit],
            self.learn,
            [name, shelf, session],
            [seeds, learned, shelf, session],
            **outputs,
        )
        seeds.select(self.choose, shelf, [learned, shelf], **outputs)
        yes.click(self.accept, shelf, [learned, shelf], **outputs)
        no.click(self.reject, shelf, [learned, shelf], **outputs)
        again.click(self.refine, [shelf, session], [seeds, learned, shelf, session], **outputs)

    def _first_status(self) -> str:
        bank = self._desk.service.bank
        return "No bank yet." if bank is None else f"The server's bank of {len(bank)} photos."

    def build(self, place: str, shelf: Shelf, progress: gr.Progress = gr.Progress()) -> tuple[str, Shelf]:  # noqa: B008
        """Status, and the shelf with a bank of the folder."""
        try:
            listed, count = self._list(place.strip() or ".")
            done = 0

            def advance(step: int) -> None:
                nonlocal done
                done += step
                progress((min(done, count), count), desc="looking at photos")

            out = listed.with_suffix(".bank")
            bank = ImageBank.build(listed, out=out, segmenter=self._model, progress=advance)  # type: ignore[arg-type]
        except OvsegError as error:
            raise told(error) from error
        unread = len(bank.bad_images())
        bad = f", {unread} cannot be read" if unread else ""
        return f"A bank of {len(bank)} photos{bad}.", Shelf(bank)

    def search(self, text: str, path: str | None, shelf: Shelf) -> list[tuple[Any, str]]:
        """Pictures with their names and cosines."""
        bank = self._bank(shelf)
        photo = None if text.strip() or path is None else self._desk.photo(path)

        def call() -> Any:
            query = as_words(text) if photo is None else self._desk.service.photos.encoded(photo)
            return bank.search(query, _SEARCHED)

        found = self._desk.ask(call)
        pairs = zip(found.paths[0], found.cosine[0].tolist(), strict=True)
        return [(thumbnail(key, _SIDE), f"{cosine:.3f} {one_line(Path(key).name)}") for key, cosine in pairs]

    def learn(self, name: str, shelf: Shelf, session: Session) -> tuple[Any, ...]:
        """Tiles of the seeds, status, shelf, session with the concept."""
        bank = self._bank(shelf)
        try:
            concepts = learn_concepts([as_words(name)], bank, segmenter=self._model)  # type: ignore[arg-type]
        except OvsegError as error:
            raise told(error) from error
        return self._learned(concepts, Shelf(bank), session)

    def choose(self, shelf: Shelf, event: gr.SelectData) -> tuple[str, Shelf]:
        """Status, and the shelf with a seed chosen."""
        path = shelf.seeds[event.index].path
        return f"Chosen: {for_markdown(Path(path).name)}", replace(shelf, chosen=event.index)

    def accept(self, shelf: Shelf) -> tuple[str, Shelf]:
        """Status, and the shelf with the chosen seed accepted."""
        path = _chosen(shelf)
        kept = tuple(each for each in shelf.reject if each != path)
        return _decided(replace(shelf, accept=(*dict.fromkeys((*shelf.accept, path)),), reject=kept))

    def reject(self, shelf: Shelf) -> tuple[str, Shelf]:
        """Status, and the shelf with the chosen seed rejected."""
        path = _chosen(shelf)
        kept = tuple(each for each in shelf.accept if each != path)
        return _decided(replace(shelf, reject=(*dict.fromkeys((*shelf.reject, path)),), accept=kept))

    def refine(self, shelf: Shelf, session: Session) -> tuple[Any, ...]:
        """As ``learn``, with what was decided."""
        if shelf.concepts is None:
            raise told("learn a concept first")
        bank = self._bank(shelf)
        try:
            concepts = refine_concepts(
                shelf.concepts,
                bank,
                accept=shelf.accept,
                reject=shelf.reject,
                segmenter=self._model,  # type: ignore[arg-type]
            )
        except OvsegError as error:
            raise told(error) from error
        return self._learned(concepts, Shelf(bank), session)

    def _learned(self, concepts: ConceptSet, shelf: Shelf, session: Session) -> tuple[Any, ...]:
        (concept,) = concepts.references
        seeds = tuple(sorted(concept.seeds, key=lambda seed: not seed.verdict))[:_SEEDS]
        tiles = [
            seed_tile(concept, seed, self._model, features=concepts.features, side=_SIDE)  # type: ignore[arg-type]
            for seed in seeds
        ]
        shelf = replace(shelf, concepts=concepts, seeds=seeds)
        label = for_markdown(concept.name)
        use = (
            f"in the first tab the word '{label}' now finds what was learned."
            if concept.found
            else ("this bank does not seem to show it.")
        )
        status = (
            f"**{label}**: confidence {concept.confidence:.2f}; {use} Click on a photo to say whether it shows it."
        )
        return [(tile, "") for tile in tiles], status, shelf, replace(session, concepts=concepts)

    def _bank(self, shelf: Shelf) -> ImageBank:
        bank = shelf.bank or self._desk.service.bank
        if bank is None:
            raise told("build a bank first, or start the server with --bank DIR")
        return bank

    def _list(self, place: str) -> tuple[Path, int]:
        """A file that lists the photos of a folder, but for links that lead out of what is open; their number."""
        root = self._desk.service.access.folder
        folder = inside(root, place)
        if root is None or not folder.is_dir():
            raise Refusal(422, f"expected a folder, '{place[:100]}' is none")
        paths = [path.resolve() for path in find_images(folder)]
        lines = [str(path) for path in paths if path.is_relative_to(root.resolve()) and "\n" not in str(path)]
        if not lines:
            raise ImageError(f"expected photos in folder '{place[:100]}', found none")
        if len(lines) > _MOST_PHOTOS:
            raise Refusal(
                422, f"'{place[:100]}' has {len(lines)} photos, more than {_MOST_PHOTOS}; use ovseg bank build"
            )
        listed = self._desk.folder / f"{sha256_of_bytes(str(folder).encode())[:16]}.txt"
        listed.write_text("\n".join(lines), encoding="utf-8")
        return listed, len(lines)


def _chosen(shelf: Shelf) -> str:
    if shelf.chosen is None:
        raise told("click on one of the photos first")
    return shelf.seeds[shelf.chosen].path


def _decided(shelf: Shelf) -> tuple[str, Shelf]:
    return f"{len(shelf.accept)} show it, {len(shelf.reject)} do not; press Learn again.", shelf
