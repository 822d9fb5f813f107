"""Named groups put to use: concepts that segment new photos, and pseudo-labels that training reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.bank.pseudo_labels import IGNORE, PseudoLabelReport, claim_labels, holds, report, write_maps
from ovseg.bank.store import writing
from ovseg.concepts import ConceptReference, ConceptSet
from ovseg.concepts.concept_set import Seed
from ovseg.concepts.evidence import feature_maps
from ovseg.discovery.discovery import Discovery, Group, centre_of
from ovseg.discovery.found import FoundObjects, PhotoObjects
from ovseg.discovery.proposers import cell_shares
from ovseg.discovery.stuff import STUFF
from ovseg.errors import SpaceError, VocabularyError
from ovseg.examples.calibrate import calibrate
from ovseg.identity import digest
from ovseg.images.sources import read_key
from ovseg.journal import Journal, keep_lines
from ovseg.result.segments import Segment

if TYPE_CHECKING:
    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.segmenter import Segmenter

_PHOTOS = 20  # of a name, at which its cosines are measured
_INSIDE, _OUTSIDE = 0.5, 0.1  # shares of a cell that objects of the name cover


@dataclass
class _Named:
    """A name while its concept is made."""

    name: str
    embeddings: Tensor  # (R, D)
    members: dict[str, list[tuple[Segment, float, int]]]  # of each photo: object, cosine, number of the group
    inside: list[Tensor] = field(default_factory=list)
    outside: list[Tensor] = field(default_factory=list)
    seeds: list[Seed] = field(default_factory=list)


def named_concepts(
    made: Discovery, segmenter: Segmenter, *, progress: Callable[[int], None] | None = None
) -> ConceptSet:
    """The named groups as concepts for ``Segmenter.with_concepts``; groups of one name are one concept.

    A concept's references are the centres of its groups. What a cosine says is measured on at most 20 photos of
    each name, encoded again: cells of its objects against other cells of these photos and of those of other names.

    Args:
        made: with names.
        segmenter: the model that was used.
        progress: called with the number of photos that a step has encoded.

    Raises:
        VocabularyError: no group has a name.
        SpaceError: another model.
        ImageError: a photo is gone.
    """
    found = made.objects()
    if segmenter.config.name != made.model:
        raise SpaceError(
            f"'{made.root}' was made with model '{made.model}', got '{segmenter.config.name}'; load that model"
        )
    names = _names(made, found)
    photos = {photo.path: photo for photo in found.photos}
    chosen = dict.fromkeys(path for each in names for path in list(each.members)[:_PHOTOS])
    for path in chosen:
        encoded = segmenter.encode(read_key(path))
        for each in names:
            _measure(each, photos[path], encoded)
        if progress is not None:
            progress(1)
    references = tuple(map(_reference, names))
    return ConceptSet(references, segmenter.model.head.space, "joint", dict(segmenter.info))


def write_named_labels(made: Discovery, out: str | Path, *, unnamed: bool = False) -> PseudoLabelReport:
    """The named groups as pseudo-labels for the section ``data`` of a training file.

    As in U2Seg, stuff is painted first and then the objects of a photo by descending area, so that the smaller lie
    on the larger. What no named group covers is ignored. The confidence of a pixel is its object's cosine with the
    group's centre.

    Args:
        made: with names.
        out: the folder; the form is that of ``bank.pseudo_labels.write_pseudo_labels``.
        unnamed: whether groups without a name are labels too, called "group NUMBER".

    Raises:
        VocabularyError: no group has a name, or there are more than 255 labels.
        ConfigError: ``out`` holds pseudo-labels of other names or groups.
        OutputError: ``out`` cannot be written to.

    Source: Niu et al., U2Seg, CVPR 2024, section 3.2.
    """
    root, found = Path(out), made.objects()
    if unnamed:
        made = replace(made, groups=tuple(_called(group) for group in made.groups))
    names = _names(made, found)
    if len(names) > IGNORE:
        raise VocabularyError(f"pseudo-labels hold at most {IGNORE} labels, got {len(names)}; name fewer groups")
    owned = [
        (each.name, path, asdict(segment), cosine, number)
        for each in names
        for path, members in each.members.items()
        for segment, cosine, number in members
    ]
    settings: dict[str, Any] = {"labels": [each.name for each in names], "ignore": IGNORE, "confidence": 0.0}
    settings["groups"] = digest(owned)
    with writing(root, what="pseudo-labels"):
        claim_labels(root, settings)
        path = root / "manifest-000.jsonl"
        done = {line["path"] for line in keep_lines(path, lambda line: holds(line, root))}
        with Journal(path) as journal:
            for photo in found.photos:
                if photo.path not in done and (objects := _labelled(photo, names)):
                    maps, scores = _painted(objects)
                    journal.append(write_maps(root, photo.path, maps, scores, labels=len(names), mark=photo.mark))
    return report(root)


def _names(made: Discovery, found: FoundObjects) -> list[_Named]:
    """The names with what is known of them.

    Raises:
        VocabularyError: there is none.
    """
    if not made.named:
        raise VocabularyError(
            "expected named groups, got none; look at overview.png, then 'ovseg discover FOLDER --name 3=cup'"
        )
    photos = {photo.path: photo for photo in found.photos}
    named = []
    for name, groups in made.named.items():
        centres = torch.from_numpy(np.stack([centre_of(group, found) for group in groups]))
        members: dict[str, list[tuple[Segment, float, int]]] = {}
        ranked = sorted(
            ((member, number) for number, group in enumerate(groups) for member in group.members),
            key=lambda pair: -pair[0].cosine,
        )
        for member, number in ranked:
            segment = photos[member.path].parts(stuff=groups[number].stuff).segments[member.object]
            members.setdefault(member.path, []).append((segment, member.cosine, number))
        named.append(_Named(name, centres, members))
    return named


def _measure(named: _Named, photo: PhotoObjects, encoded: EncodedImage) -> None:
    """Add the cosines of a photo's cells with a name, inside and outside of its objects, and the seed."""
    maps = encoded.unpadded(feature_maps(encoded.features, "joint")).cpu()
    cosine = torch.einsum("rc,chw->rhw", named.embeddings, maps).amax(0)
    grid = (cosine.shape[0], cosine.shape[1])
    own = named.members.get(photo.path, [])
    shares = [cell_shares(segment.mask(), grid) for segment, _, _ in own]
    covered = torch.stack(shares).amax(0) if shares else torch.zeros(grid)
    named.inside.append(cosine[covered >= _INSIDE])
    named.outside.append(cosine[covered <= _OUTSIDE])
    if own:
        best = int(torch.where(covered > 0, cosine, -2.0).argmax())
        row, column = (best // grid[1] + 0.5) / grid[0], (best % grid[1] + 0.5) / grid[1]
        named.seeds.append(Seed(photo.path, row, column, own[0][1], True, own[0][2]))


def _reference(named: _Named) -> ConceptReference:
    inside, outside = torch.cat(named.inside), torch.cat(named.outside)
    if not len(inside):  # all of its objects are smaller than a cell
        inside = torch.tensor([seed.support for seed in named.seeds])
    threshold, spread, separation = calibrate(inside, outside)
    # a person has looked at the group: that its photos show the name is not in doubt
    return ConceptReference(named.name, named.embeddings, threshold, spread, 1.0, separation, tuple(named.seeds))


def _called(group: Group) -> Group:
    """The group with its number for a name, where it has none."""
    return group if group.name else replace(group, name=f"group {group.number}")


def _labelled(photo: PhotoObjects, names: list[_Named]) -> list[tuple[int, Segment, float]]:
    """Position of the name, segment and cosine: the stuff of a photo, then its objects by descending area."""
    objects = [
        (label, segment, cosine)
        for label, each in enumerate(names)
        for segment, cosine, _ in each.members.get(photo.path, [])
    ]
    return sorted(objects, key=lambda each: (each[1].label != STUFF, -each[1].area, each[1].box))


def _painted(objects: list[tuple[int, Segment, float]]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(H, W) the position of the label, and (H, W) the confidence, of at least one object."""
    size = tuple(objects[0][1].rle["size"])
    maps, scores = np.full(size, IGNORE, np.uint8), np.zeros(size, np.float32)
    for label, segment, cosine in objects:
        mask = segment.mask()
        maps[mask], scores[mask] = label, min(1.0, max(0.0, cosine))
    return maps, scores
