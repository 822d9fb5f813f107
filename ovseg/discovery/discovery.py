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
    """An object of a group.

    Attributes:
        path: key of its photo.
        object: its number among the photo's objects, from 0.
        box: x0, y0, x1, y1 in pixels; x1 and y1 are not included.
        cosine: with the centre of the group.
    """

    path: str
    object: int
    box: tuple[int, int, int, int]
    cosine: float


@dataclass(frozen=True)
class Group:
    """Objects that look alike.

    Attributes:
        number: from 1, the largest and tightest first.
        name: what a person calls it; empty for none.
        proposed: up to three names of a word list that come nearest, the best first.
        tightness: mean cosine of the members with the centre.
        members: the nearest to the centre first.
    """

    number: int
    name: str
    proposed: tuple[str, ...]
    tightness: float
    members: tuple[Member, ...]

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
    root, segmenter = Path(out), load(model) if segmenter is None else segmenter
    found = find_objects(folder, root, segmenter=segmenter, by=by, progress=progress)
    made = _grouped(found, root, None if groups == "auto" else groups, model=segmenter.config.name)
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
    mean = np.mean([photos[member.path].vectors[member.object] for member in group.members], axis=0)
    centre: NDArray[np.float32] = (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)
    return centre


def _grouped(found: FoundObjects, root: Path, groups: int | None, *, model: str) -> Discovery:
    """The groups of all objects, without names."""
    places = [(photo, number) for photo in found.photos for number in range(len(photo.segments))]
    vectors = np.array([photo.vectors[number] for photo, number in places], np.float32)
    grouping = group_vectors(vectors.reshape(len(places), -1 if places else 1), groups=groups)
    made = []
    for number in range(len(grouping.centres)):
        rows = np.flatnonzero(grouping.owner == number)
        rows = rows[np.argsort(-grouping.cosine[rows], kind="stable")]
        members = tuple(
            Member(places[row][0].path, places[row][1], _box(places[row]), round(float(grouping.cosine[row]), 4))
            for row in rows.tolist()
        )
        made.append(Group(number + 1, "", (), round(float(grouping.cosine[rows].mean()), 4), members))
    paths = tuple(photo.path for photo in found.photos)
    return Discovery(root, tuple(made), paths, int((grouping.owner < 0).sum()), found.bad, model)


def _box(place: tuple[Any, int]) -> tuple[int, int, int, int]:
    photo, number = place
    box: tuple[int, int, int, int] = photo.segments[number].box
    return box


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
    home = {(member.path, member.box): group.number for group in made.groups for member in group.members}
    names: dict[int, str] = {}
    for group in earlier.groups:
        homes = [home[place] for member in group.members if (place := (member.path, member.box)) in home]
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
    return Group(int(values["number"]), values["name"].strip(), proposed, float(values["tightness"]), members)


def _four(box: Sequence[Any]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = map(int, box)
    return x0, y0, x1, y1
