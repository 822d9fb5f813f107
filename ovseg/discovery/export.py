"""Named groups put to use: concepts that segment new photos, and pseudo-labels that training reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
from ovseg.discovery.discovery import Discovery, centre_of
from ovseg.discovery.found import FoundObjects, PhotoObjects
from ovseg.discovery.proposers import cell_shares
from ovseg.errors import SpaceError, VocabularyError
from ovseg.examples.calibrate import calibrate
from ovseg.identity import digest
from ovseg.images.sources import read_key
from ovseg.journal import Journal, keep_lines

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
    members: dict[str, list[tuple[int, float, int]]]  # of each photo: object, cosine, number of the group
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


def write_named_labels(made: Discovery, out: str | Path) -> PseudoLabelReport:
    """The named groups as pseudo-labels for the section ``data`` of a training file.

    As in U2Seg, the objects of a photo are painted by descending area, so that the smaller lie on the larger. What
    no named object covers is ignored. The confidence of a pixel is its object's cosine with the group's centre.

    Args:
        made: with names.
        out: the folder; the form is that of ``bank.pseudo_labels.write_pseudo_labels``.

    Raises:
        VocabularyError: no group has a name, or more than 255 names.
        ConfigError: ``out`` holds pseudo-labels of other names or groups.
        OutputError: ``out`` cannot be written to.

    Source: Niu et al., U2Seg, CVPR 2024, section 3.2.
    """
    root, found = Path(out), made.objects()
    names = _names(made, found)
    if len(names) > IGNORE:
        raise VocabularyError(f"pseudo-labels hold at most {IGNORE} labels, got {len(names)}; name fewer groups")
    owned = [(each.name, each.members) for each in names]
    settings: dict[str, Any] = {"labels": [each.name for each in names], "ignore": IGNORE, "confidence": 0.0}
    settings["groups"] = digest(
        owned, [asdict(photo.segments[0])["rle"] for photo in found.photos if photo.segments]
    )
    with writing(root, what="pseudo-labels"):
        claim_labels(root, settings)
        path = root / "manifest-000.jsonl"
        done = {line["path"] for line in keep_lines(path, lambda line: holds(line, root))}
        with Journal(path) as journal:
            for photo in found.photos:
                if photo.path not in done and (objects := _labelled(photo, names)):
                    maps, scores = _painted(photo, objects)
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
    named = []
    for name, groups in made.named.items():
        centres = torch.from_numpy(np.stack([centre_of(group, found) for group in groups]))
        members: dict[str, list[tuple[int, float, int]]] = {}
        ranked = sorted(
            ((member, number) for number, group in enumerate(groups) for member in group.members),
            key=lambda pair: -pair[0].cosine,
        )
        for member, number in ranked:
            members.setdefault(member.path, []).append((member.object, member.cosine, number))
        named.append(_Named(name, centres, members))
    return named


def _measure(named: _Named, photo: PhotoObjects, encoded: EncodedImage) -> None:
    """Add the cosines of a photo's cells with a name, inside and outside of its objects, and the seed."""
    maps = encoded.unpadded(feature_maps(encoded.features, "joint")).cpu()
    cosine = torch.einsum("rc,chw->rhw", named.embeddings, maps).amax(0)
    grid = (cosine.shape[0], cosine.shape[1])
    own = named.members.get(photo.path, [])
    shares = [cell_shares(photo.segments[number].mask(), grid) for number, _, _ in own]
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


def _labelled(photo: PhotoObjects, names: list[_Named]) -> list[tuple[int, int, float]]:
    """The named objects of a photo by descending area: position of the name, object, cosine."""
    objects = [
        (label, number, cosine)
        for label, each in enumerate(names)
        for number, cosine, _ in each.members.get(photo.path, [])
    ]
    return sorted(objects, key=lambda each: (-photo.segments[each[1]].area, each[1]))


def _painted(
    photo: PhotoObjects, objects: list[tuple[int, int, float]]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(H, W) the position of the label, and (H, W) the confidence."""
    size = tuple(photo.segments[0].rle["size"])
    maps, scores = np.full(size, IGNORE, np.uint8), np.zeros(size, np.float32)
    for label, number, cosine in objects:
        mask = photo.segments[number].mask()
        maps[mask], scores[mask] = label, min(1.0, max(0.0, cosine))
    return maps, scores
