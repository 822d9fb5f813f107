"""Groups of objects that a person can look at and name: ``discover``, and the folder that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ovseg.discovery.found import FoundObjects, Progress, find_objects, read_objects
from ovseg.discovery.groups import group_vectors
from ovseg.discovery.sheets import write_sheets
from ovseg.errors import ConfigError, OvsegError, VocabularyError
from ovseg.files import read_json, write_json
from ovseg.pipeline.logits import best_query
from ovseg.pipeline.opening import load
from ovseg.vocabulary.labels import check_phrase

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter

FORMAT = "ovseg-groups-1"
_PROPOSED = 3  # names that are proposed for a group
_AGAIN = "run 'ovseg discover' without --name, and without this file if it is there"


@dataclass(frozen=True)
class Member:
    """An object of a group, or a region of a group of stuff.

    Attributes:
        path: key of its photo.
        object: its number among the photo's objects, or its regions of stuff, from 0.
        box: x0, y0, x1, y1 in pixels; x1 and y1 are not included.
        cosine: with the centre of the group.
    """

    path: str
    object: int
    box: tuple[int, int, int, int]
    cosine: float


@dataclass(frozen=True)
class Group:
    """Objects, or regions of stuff, that look alike.

    Attributes:
        number: from 1, the largest and tightest first; those of stuff come after those of objects.
        name: what a person calls it; empty for none.
        proposed: up to three names of a word list that come nearest, the best first.
        tightness: mean cosine of the members with the centre.
        members: the nearest to the centre first.
        stuff: whether its members are regions that no object covers.
    """

    number: int
    name: str
    proposed: tuple[str, ...]
    tightness: float
    members: tuple[Member, ...]
    stuff: bool = False

    @property
    def photos(self) -> int:
        """In how many photos its members are."""
        return len({member.path for member in self.members})


@dataclass(frozen=True)
class Discovery:
    """What ``discover`` found.

    Attributes:
        root: the folder that holds it.
        groups: the largest and tightest first.
        paths: keys of all photos that were looked at.
        loose: objects of no group.
        bad: photos that could not be read, and why.
        model: the name of the model whose features are compared.
    """

    root: Path
    groups: tuple[Group, ...]
    paths: tuple[str, ...]
    loose: int
    bad: tuple[tuple[str, str], ...]
    model: str

    @classmethod
    def open(cls, root: str | Path) -> Discovery:
        """What an earlier ``discover`` wrote to a folder, with the names that ``groups.json`` now has.

        Raises:
            ConfigError: there is none, or ``groups.json`` is damaged.
            VocabularyError: a name in it is no name.
        """
        path = Path(root) / "groups.json"
        stored = read_json(path, what="groups", advice=_AGAIN)
        try:
            if stored["format"] != FORMAT:
                raise ConfigError(f"'{path}' must be of form {FORMAT}, got {stored['format']!r}; {_AGAIN}")
            groups = tuple(_group(values) for values in stored["groups"])
            bad = tuple((str(each["path"]), str(each["reason"])) for each in stored["bad"])
            paths = tuple(map(str, stored["photos"]))
            found = cls(Path(root), groups, paths, int(stored["loose"]), bad, str(stored["model"]))
        except OvsegError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"'{path}' is no list of groups (at {error}); {_AGAIN}") from error
        for group in found.groups:
            if group.name:
                check_phrase(group.name, where=f"the name of group {group.number}")
        return found

    def __getitem__(self, number: int) -> Group:
        for group in self.groups:
            if group.number == number:
                return group
        raise ConfigError(f"no group {number}; there are 1 to {len(self.groups)}")

    @property
    def named(self) -> dict[str, tuple[Group, ...]]:
        """The groups of each name, in order; groups of one name are one thing."""
        names = dict.fromkeys(group.name for group in self.groups if group.name)
        return {name: tuple(group for group in self.groups if group.name == name) for name in names}

    def with_names(self, names: Mapping[int, str]) -> Discovery:
        """The same with groups named, also in ``groups.json``; an empty name takes one away.

        Raises:
            ConfigError: there is no such group.
            VocabularyError: it is no name.
        """
        for number, name in names.items():
            if self[number] and name:
                check_phrase(name, where=f"the name of group {number}")
        named = tuple(replace(group, name=names.get(group.number, group.name)) for group in self.groups)
        changed = replace(self, groups=named)
        changed.save()
        return changed

    def objects(self) -> FoundObjects:
        """All photos with all their objects and vectors.

        Raises:
            ConfigError: the folder does not hold them any more.
        """
        return read_objects(self.root, list(self.paths))

    def save(self) -> None:
        """Write ``groups.json``, whole or not at all.

        Raises:
            OutputError: the folder cannot be written to.
        """
        groups = [{**asdict(group), "photos": group.photos, "size": len(group.members)} for group in self.groups]
        bad = [{"path": path, "reason": reason} for path, reason in self.bad]
        stated = {"format": FORMAT, "model": self.model, "loose": self.loose, "bad": bad}
        write_json(self.root / "groups.json", {**stated, "groups": groups, "photos": list(self.paths)})


def discover(
    folder: str | Path,
    *,
    out: str | Path = "discovered",
    segmenter: Segmenter | None = None,
    model: str = "mini",
    by: str = "normalized_cut",
    groups: int | Literal["auto"] = "auto",
    stuff: int | None = None,
    names: Sequence[str] = (),
    progress: Progress | None = None,
) -> Discovery:
    """Objects that a folder of photos shows again and again, without any word.

    Each photo's objects (``propose``) become vectors, which k-means puts into groups. ``out`` gets the objects,
    which a further call takes from there, ``groups.json``, a sheet ``group-NUMBER.png`` for each group and
    ``overview.png``. Names that groups had there go to the group that now has most of their members.

    Args:
        folder: photos; also a glob, a list in a ``.txt``, tar archives or a data set, as of ``ImageBank.build``.
        out: the folder for what is found.
        segmenter: whose features are compared; None loads ``model``.
        model: a name of ``ovseg.list_models()``.
        by: "normalized_cut", "sam", "detector" or "universal:MODEL"; see ``propose``.
        groups: how many are looked for; "auto" takes twice the square root of the number of objects.
        stuff: how many groups are made of the regions that no object covers, such as 27; None leaves them alone.
        names: words, of which the nearest are proposed for each group.
        progress: called with the number of photos that a step has done.

    Raises:
        ImageError: there are no photos.
        ConfigError: ``out`` holds objects of other settings, or an option is wrong.
        ModelError: the model has no detector, or cannot be loaded.
        OutputError: ``out`` cannot be written to.
    """
    if groups != "auto" and (not isinstance(groups, int) or groups < 1):
        raise ConfigError(f"groups must be a number of at least 1 or 'auto', got {groups!r}")
    if stuff is not None and (not isinstance(stuff, int) or stuff < 1):
        raise ConfigError(f"stuff must be a number of groups of at least 1 or None, got {stuff!r}")
    root, segmenter = Path(out), load(model) if segmenter is None else segmenter
    found = find_objects(folder, root, segmenter=segmenter, by=by, stuff=stuff is not None, progress=progress)
    things, loose = _grouped(found, groups=None if groups == "auto" else groups)
    areas, _ = _grouped(found, groups=stuff, stuff=True, after=len(things)) if stuff else ((), 0)
    paths = tuple(photo.path for photo in found.photos)
    made = Discovery(root, (*things, *areas), paths, loose, found.bad, segmenter.config.name)
    if names:
        made = replace(made, groups=_proposed(made, found, names, segmenter))
    if (root / "groups.json").is_file():
        made = _with_earlier_names(made, Discovery.open(root))
    made.save()
    write_sheets(made, found)
    return made


def centre_of(group: Group, found: FoundObjects) -> NDArray[np.float32]:
    """(D,) float32 unit mean of the members' vectors."""
    photos = {photo.path: photo for photo in found.photos}
    parts = [(photos[member.path].parts(stuff=group.stuff), member.object) for member in group.members]
    mean = np.mean([part.vectors[number] for part, number in parts], axis=0)
    centre: NDArray[np.float32] = (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)
    return centre


def _grouped(
    found: FoundObjects, *, groups: int | None, stuff: bool = False, after: int = 0
) -> tuple[tuple[Group, ...], int]:
    """The groups of all objects, or of all regions of stuff, without names; and how many belong to none.

    Args:
        found: of all photos.
        groups: how many are looked for; None takes the default for as many objects.
        stuff: whether regions of stuff are grouped, all of which belong to a group.
        after: number of the group before the first.
    """
    parts = [(photo.path, photo.parts(stuff=stuff)) for photo in found.photos]
    places = [(path, part, number) for path, part in parts for number in range(len(part.segments))]
    vectors = np.array([part.vectors[number] for _, part, number in places], np.float32)
    vectors = vectors.reshape(len(places), -1 if places else 1)
    grouping = group_vectors(vectors, groups=groups, everything=stuff)
    made = []
    for number in range(len(grouping.centres)):
        rows = np.flatnonzero(grouping.owner == number)
        rows = rows[np.argsort(-grouping.cosine[rows], kind="stable")]
        members = tuple(
            Member(path, place, part.segments[place].box, round(float(grouping.cosine[row]), 4))
            for row in rows.tolist()
            for path, part, place in (places[row],)
        )
        tightness = round(float(grouping.cosine[rows].mean()), 4)
        made.append(Group(after + number + 1, "", (), tightness, members, stuff))
    return tuple(made), int((grouping.owner < 0).sum())


def _proposed(
    made: Discovery, found: FoundObjects, names: Sequence[str], segmenter: Segmenter
) -> tuple[Group, ...]:
    """The groups with the names that are nearest to their centres."""
    queries = segmenter.queries(list(dict.fromkeys(names)))
    if not made.groups:
        return ()
    centres = torch.from_numpy(np.stack([centre_of(group, found) for group in made.groups]))
    logits = queries.embeddings.float().cpu() @ centres.T  # (Q, K); their order counts, not their size
    logits = best_query(logits, queries.class_of_query.cpu(), classes=queries.classes)
    best = logits.topk(min(_PROPOSED, len(logits)), dim=0).indices
    labels = queries.vocabulary.labels
    return tuple(
        replace(group, proposed=tuple(labels[row] for row in rows))
        for group, rows in zip(made.groups, best.T.tolist(), strict=True)
    )


def _with_earlier_names(made: Discovery, earlier: Discovery) -> Discovery:
    """Each name of an earlier run given to the group that has most of its members, if that are at least half."""
    home = {
        (group.stuff, member.path, member.box): group.number for group in made.groups for member in group.members
    }
    names: dict[int, str] = {}
    for group in earlier.groups:
        places = [(group.stuff, member.path, member.box) for member in group.members]
        homes = [home[place] for place in places if place in home]
        if group.name and homes:
            number = max(sorted(set(homes)), key=homes.count)
            if 2 * homes.count(number) >= len(group.members):
                names.setdefault(number, group.name)
    groups = tuple(replace(group, name=names.get(group.number, "")) for group in made.groups)
    return replace(made, groups=groups)


def _group(values: dict[str, Any]) -> Group:
    members = tuple(
        Member(str(each["path"]), int(each["object"]), _four(each["box"]), float(each["cosine"]))
        for each in values["members"]
    )
    if not isinstance(values["name"], str):
        raise VocabularyError(f"the name of group {values['number']} must be text, got {values['name']!r}")
    proposed = tuple(map(str, values["proposed"]))
    stuff = bool(values.get("stuff", False))  # files of before there was stuff do not say
    tightness = float(values["tightness"])
    return Group(int(values["number"]), values["name"].strip(), proposed, tightness, members, stuff)


def _four(box: Sequence[Any]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = map(int, box)
    return x0, y0, x1, y1
