"""Which images a command has to do, against what background, where results go, and which are already done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovseg.errors import OutputError, VocabularyError
from ovseg.files import atomic_path, read_json, to_json
from ovseg.identity import FileMark, digest
from ovseg.images.find import find_images
from ovseg.images.sources import is_file_key
from ovseg.images.web import fetch, name_of
from ovseg.result.formats import Place
from ovseg.result.storage import check_name, same_file, source_of
from ovseg.storage import Shelf, Stored, is_stored
from ovseg.storage import fetch as fetch_object
from ovseg.vocabulary.labels import Background


@dataclass(frozen=True)
class Copy:
    """An image that is no file of the user's: standard input, or behind an address on the web or in storage.

    Attributes:
        path: of its copy on disk, which an address gets when it is first read.
        name: what the image is called, as a file would be.
        origin: what the result says it was made of.
        below: the folder of its result under that of all results.
        stored: the object in storage that it is a copy of.
    """

    path: Path
    name: str
    origin: str
    below: str = ""
    stored: Stored | None = None

    @classmethod
    def of_address(cls, address: str, folder: Path) -> Copy:
        """Of an image on the web, to be kept in ``folder``."""
        return cls(folder / digest(address), name_of(address), address)

    @classmethod
    def of_object(cls, stored: Stored, below: str, folder: Path) -> Copy:
        """Of an image in storage, to be kept in ``folder``, where it has its own name."""
        name = Path(stored.address).name
        return cls(folder / digest(stored.address) / name, name, stored.address, below, stored)

    def fetch(self) -> None:
        """See that the copy is there; it is fetched once.

        Raises:
            ImageError: see ``web.fetch`` and ``storage.fetch``.
            OutputError: the copy cannot be written.
        """
        if self.path.exists():
            return
        if self.stored is not None:
            fetch_object(self.origin, self.path)
        else:
            content = fetch(self.origin)
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(content)


@dataclass(frozen=True)
class Job:
    """One image and the place of its result: ``folder/name.json`` and its companions.

    Those of a job with a ``shelf`` have their place in storage, and are in ``folder`` while they are needed.
    """

    image: Path
    folder: Path
    name: str
    copy: Copy | None = None
    shelf: Shelf | None = None

    @property
    def source(self) -> str:
        """What the result says it was made of: path or address of the image, or the name of standard input."""
        return self.copy.origin if self.copy is not None else str(self.image)

    @property
    def index(self) -> Path:
        """The labels as an indexed PNG."""
        return self.folder / f"{self.name}.png"

    @property
    def record(self) -> Path:
        """The JSON file, which is written last."""
        return self.folder / f"{self.name}.json"

    @property
    def overlay(self) -> Path:
        """The photo with colours and legend."""
        return self.folder / f"{self.name}_overlay.png"

    def where(self, path: Path) -> str:
        """Where the user finds a file of the result."""
        return str(path) if self.shelf is None else self.shelf.address_of(path)

    def has(self, path: Path) -> bool:
        """Whether a file of the result is there."""
        return path.is_file() if self.shelf is None else self.shelf.has(path)

    def bring(self) -> None:
        """See that what is needed to read the result is in its folder, if there is a result."""
        if self.shelf is not None and self.shelf.bring(self.record):
            self.shelf.bring(self.index)

    def keep(self) -> None:
        """See that the files of the result, which are in their folder, have their place."""
        if self.shelf is not None:
            begun = to_json({"provenance": {"source": self.source}})  # whose it is, for ``check_place``
            paths = [self.index, self.overlay, self.record]
            self.shelf.put(paths, begun=begun.encode("utf-8", "backslashreplace"))

    def clear(self) -> None:
        """Let go of the copies on this machine of what storage has."""
        if self.copy is not None and self.copy.stored is not None:
            self.copy.path.unlink(missing_ok=True)
        if self.shelf is not None:
            for path in (self.index, self.overlay, self.record):
                path.unlink(missing_ok=True)

    def within(self, room: Path) -> Job:
        """The same job with its copies in another folder, as on another machine."""
        job = self
        if self.copy is not None:
            copy = replace(self.copy, path=room / "photos" / self.copy.path.parent.name / self.copy.path.name)
            job = replace(job, image=copy.path, copy=copy)
        if self.shelf is not None:
            shelf = replace(self.shelf, room=room / "results")
            job = replace(job, folder=shelf.room / self.folder.relative_to(self.shelf.room), shelf=shelf)
        return job

    def mark(self) -> FileMark:
        """What the image is known by, once its copy is there.

        Raises:
            OSError: it cannot be read.
        """
        mark = FileMark.of(self.image)
        stored = None if self.copy is None else self.copy.stored
        return mark if stored is None else replace(mark, stamp=stored.steady_stamp())

    def is_of(self, mark: FileMark) -> bool:
        """Whether the image still has the bytes of ``mark``; an object is fetched only where that is open."""
        if self.copy is not None:
            if self.copy.stored is not None and self.copy.stored.is_marked(mark):
                return True
            self.copy.fetch()
        return mark.still(self.image)

    def place(self, out: Path) -> Place:
        """Where the files of other formats go, ``out`` being the folder of all results."""
        below = _plain(self.folder).relative_to(_plain(out)).as_posix()
        lasting, called = (
            self.copy is None and self.shelf is None,
            self.copy is None or self.copy.stored is not None,
        )
        below = "" if below == "." else below
        return Place(out, below, self.name, self.image, self.source, lasting=lasting, called=called)


def plan_jobs(sources: Sequence[str | Copy], out: Path, shelf: Shelf | None = None) -> list[Job]:
    """The images of paths, folders, glob patterns or copies; under ``out`` they keep their sub-folders.

    Images inside ``out`` are results of an earlier run and left out. ``shelf`` is where results go from ``out``.

    Raises:
        ImageError: nothing matches.
        OutputError: all images are inside ``out``.
    """
    copies = list(dict.fromkeys(source for source in sources if isinstance(source, Copy)))
    named = [source for source in sources if isinstance(source, str)]
    places = [(image, out / below) for image, below in _files_of(named, out)]
    files = [(folder, image.name) for image, folder in places]
    lying = [(out / copy.below, copy.name) for copy in copies]
    taken = Counter(files + lying)
    files += [
        (folder, _distinct(copy) if taken[folder, name] > 1 else name)
        for copy, (folder, name) in zip(copies, lying, strict=True)
    ]
    names = _names(files)
    images: list[tuple[Path, Copy | None]] = [(image, None) for image, _ in places]
    images += [(copy.path, copy) for copy in copies]
    return [
        Job(image, folder, name, copy, shelf)
        for (image, copy), (folder, _), name in zip(images, files, names, strict=True)
    ]


def places_of_keys(keys: Sequence[str], out: Path) -> dict[str, Place]:
    """Where the files of each image of a bank go under ``out``: they keep the sub-folders that tell them apart."""
    if not keys:
        return {}
    paths = [_plain(Path(key)) for key in keys]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    below = [path.parent.relative_to(root).as_posix() for path in paths]
    names = _names([(out / folder, path.name) for folder, path in zip(below, paths, strict=True)])
    return {
        key: Place(
            out,
            "" if folder == "." else folder,
            name,
            path,
            key,
            lasting=is_file_key(key),
            called=is_stored(key),
        )
        for key, folder, name, path in zip(keys, below, names, paths, strict=True)
    }


def _files_of(sources: Sequence[str], out: Path) -> list[tuple[Path, Path]]:
    """The images of paths, folders and patterns that are outside of ``out``, each with its sub-folder there."""
    if not sources:
        return []
    found = dict.fromkeys(image for source in sources for image in find_images(source))
    root = Path(os.path.commonpath([_plain(_fixed_root(source)) for source in sources]))
    ours = out.resolve()
    images = [image for image in found if ours not in image.resolve().parents]
    if not images:
        raise OutputError(
            f"expected images outside of --out '{out}', got only such as '{next(iter(found))}', which count as its "
            "results; choose another folder for --out"
        )
    return [(image, _plain(image.parent).relative_to(root)) for image in images]


def _distinct(copy: Copy) -> str:
    """A name of its own for a copy that is called like another image of the call."""
    name = Path(copy.name)
    return f"{name.stem}-{digest(copy.origin)[:8]}{name.suffix}"


def is_done(job: Job, identity: dict[str, str]) -> bool:
    """Whether a whole result of the image as it is now is there, made by what ``identity`` describes."""
    try:
        job.bring()
        record = read_json(job.record, what="record", advice="it is made again")
        files = [job.folder / record["index"], job.folder / record["overlay"]]
        made = record["provenance"]["made"]
        return (
            made["by"] == identity and job.is_of(FileMark(**made["image"])) and all(job.has(path) for path in files)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_place(job: Job, *, overwrite: bool) -> None:
    """Refuse a job whose files cannot be named so, or would replace those of another image.

    Raises:
        OutputError: the name is too long, or other files are there.
    """
    try:
        check_name(job.name)
    except OutputError as error:
        raise OutputError(f"cannot save the result of '{job.image}': {error}") from error
    job.bring()
    if job.record.exists():
        source = source_of(job.record)
        if source != job.source and not same_file(source, str(job.image)):
            whose = f"the result of '{source}'" if source else "no result of this image"
            raise OutputError(
                f"'{job.where(job.record)}' is {whose} and is not replaced by that of '{job.source}'; choose "
                "another --out"
            )
    elif not overwrite and (job.has(job.index) or job.has(job.overlay)):
        raise OutputError(
            f"'{job.where(job.index)}' or '{job.overlay.name}' is there without a record of who made it; "
            "choose another --out, or --overwrite"
        )


def made_by(identity: dict[str, str], image: FileMark) -> dict[str, Any]:
    """What ``is_done`` looks for in the provenance of a result."""
    return {"made": {"by": identity, "image": image.to_dict()}}


def parse_background(text: str) -> Background:
    """What ``--background`` says: auto, none, or phrases with commas between.

    Raises:
        VocabularyError: there is neither word nor phrase.
    """
    word = text.strip().lower()
    if word == "auto":
        return "auto"
    if word == "none":
        return None
    phrases = _parted(text)
    if not phrases:
        raise VocabularyError(f"--background expects auto, none or phrases with commas between, got '{text}'")
    return phrases


def parse_names(option: str, text: str | None) -> list[str]:
    """The labels, with commas between, that an option names; none where it is not given.

    Raises:
        VocabularyError: it is given, and names none.
    """
    names = list(dict.fromkeys(_parted(text or "")))
    if text is not None and not names:
        raise VocabularyError(f"{option} expects labels with commas between, got '{text}'")
    return names


def _parted(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _fixed_root(source: str) -> Path:
    """The folder that results' sub-folders are relative to: the part of a pattern without wildcards."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        return path.parent
    fixed: list[str] = []
    for part in path.parts[:-1]:
        if any(wildcard in part for wildcard in "*?["):
            break
        fixed.append(part)
    return Path(*fixed)


def _plain(path: Path) -> Path:
    """The absolute path without ``..``, which would lead out of the folder of the results."""
    return Path(os.path.abspath(path))


def _names(files: Sequence[tuple[Path, str]]) -> list[str]:
    """The stem of each file (folder and name), or its whole name where another's results would be named alike."""

    def claims(*names: str) -> set[str]:
        return {claim.casefold() for name in names for claim in (name, f"{name}_overlay")}

    taken = Counter((folder, claim) for folder, name in files for claim in claims(Path(name).stem, name))
    return [
        name if any(taken[folder, claim] > 1 for claim in claims(Path(name).stem)) else Path(name).stem
        for folder, name in files
    ]
