"""Which images a command has to do, against what background, where results go, and which are already done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from ovseg.errors import OutputError, VocabularyError
from ovseg.files import read_json
from ovseg.identity import FileMark
from ovseg.images.find import find_images
from ovseg.result.storage import check_name
from ovseg.vocabulary.labels import Background


@dataclass(frozen=True)
class Job:
    """One image and the place of its result: ``folder/name.json`` and its companions."""

    image: Path
    folder: Path
    name: str

    @property
    def source(self) -> str:
        """What the result says it was made of: the path of the image, or the name of one from standard input."""
        return self.image.name if self.from_stdin else str(self.image)

    @property
    def from_stdin(self) -> bool:
        """Whether the image is a copy of standard input; see ``ovseg.cli.segment.sources_of``."""
        return self.image.name.startswith("stdin-") and self.image.parent.parent == Path(gettempdir())

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


def plan_jobs(sources: Sequence[str], out: Path) -> list[Job]:
    """The images of paths, folders or glob patterns; under ``out`` they keep their sub-folders.

    Images inside ``out`` are results of an earlier run and left out.

    Raises:
        ImageError: nothing matches.
        OutputError: all images are inside ``out``.
    """
    found = dict.fromkeys(image for source in sources for image in find_images(source))
    root = Path(os.path.commonpath([_plain(_fixed_root(source)) for source in sources]))
    ours = out.resolve()
    images = [image for image in found if ours not in image.resolve().parents]
    if not images:
        raise OutputError(
            f"expected images outside of --out '{out}', got only such as '{next(iter(found))}', which count as its "
            "results; choose another folder for --out"
        )
    folders = [out / _plain(image.parent).relative_to(root) for image in images]
    names = _names(images)
    return [Job(*job) for job in zip(images, folders, names, strict=True)]


def is_done(job: Job, identity: dict[str, str]) -> bool:
    """Whether a whole result of the image as it is now is there, made by what ``identity`` describes."""
    try:
        record = read_json(job.record, what="record", advice="it is made again")
        files = [job.folder / record["index"], job.folder / record["overlay"]]
        made = record["provenance"]["made"]
        return (
            made["by"] == identity
            and FileMark(**made["image"]).still(job.image)
            and all(path.is_file() for path in files)
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
    if job.record.exists():
        source = _source_of(job)
        if source != job.source and not _same_file(source, job.image):
            whose = f"the result of '{source}'" if source else "no result of this image"
            raise OutputError(
                f"'{job.record}' is {whose} and is not replaced by that of '{job.source}'; choose another --out"
            )
    elif not overwrite and (job.index.exists() or job.overlay.exists()):
        raise OutputError(
            f"'{job.index}' or '{job.overlay.name}' is there without a record of who made it; "
            "choose another --out, or --overwrite"
        )


def _source_of(job: Job) -> str:
    """The image that the result at the place of ``job`` was made of, as it says; empty where it does not say."""
    try:
        record = read_json(job.record, what="record", advice="it says nothing")
        return str(record["provenance"]["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _same_file(source: str, image: Path) -> bool:
    return bool(source) and os.path.abspath(source) == os.path.abspath(image)


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
    phrases = [phrase.strip() for phrase in text.split(",") if phrase.strip()]
    if not phrases:
        raise VocabularyError(f"--background expects auto, none or phrases with commas between, got '{text}'")
    return phrases


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


def _names(images: Sequence[Path]) -> list[str]:
    """The stem of each image, or its whole name where another image's files would have the same names."""

    def claims(*names: str) -> set[str]:
        return {claim.casefold() for name in names for claim in (name, f"{name}_overlay")}

    taken = Counter((image.parent, claim) for image in images for claim in claims(image.stem, image.name))
    return [
        image.name if any(taken[image.parent, claim] > 1 for claim in claims(image.stem)) else image.stem
        for image in images
    ]
