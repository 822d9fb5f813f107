"""What is found without words: objects pasted on photos, what photos have in common, and groups of named photos.

    .venv/bin/python evaluation/peers/discovery.py saliency CUTOUTS PHOTOS [--count 30] [--seed 0] [--sheet FILE]
    .venv/bin/python evaluation/peers/discovery.py common CUTOUTS PHOTOS [--count 5] [--seed 0]
    .venv/bin/python evaluation/peers/discovery.py groups PHOTOS NAMES.csv [--names 25] [--each 8] [--by sam]
    .venv/bin/python evaluation/peers/discovery.py stuff PHOTOS MASKS CATEGORIES.json [--count 60] [--groups 27]

``saliency``: cut-outs (PNG with opacity) of 30 to 70 % of the photo's sides at a random place; the largest F of a
threshold (β² = 0.3) of the mean precision and recall, mean IoU and accuracy at 0.5, of TokenCut on the model's
structure, of the best cut and the best SAM mask (chosen by their score, and by looking at the truth), and of a
Gaussian in the middle. ``common``: groups of six photos with the same cut-out, mirrored and turned a little;
co-saliency beside TokenCut. ``groups``: purity, the share of photos whose group's most frequent name is theirs, of
photos grouped by their surest object that has a group, beside k-means of vectors of whole photos, as many groups.
``stuff``: on the pixels of stuff of photos with label maps (8-bit PNG of the same name, ids as CATEGORIES.json has
them), the purity of ``discover``'s groups of stuff (share of the pixels of the most frequent kind of their group)
and the mean IoU over kinds when groups and kinds are matched one to one by looking at the truth; beside the same
regions grouped by their mean colour, put into groups by chance, and all in one.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.optimize import linear_sum_assignment

import ovseg
from ovseg.bank.vectors import image_vector
from ovseg.discovery import cosaliency, discover
from ovseg.discovery.groups import cluster_vectors
from ovseg.images.find import find_images
from ovseg.images.sheets import boxed, captioned, grid, stack
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.naming import structure_of
from ovseg.pipeline.segmenter import Segmenter
from ovseg.proposals.masks import at_most_cells, cut_masks, sam_masks, sharp_masks
from ovseg.regions.cuts import salient_object
from ovseg.sam import ask_sam
from ovseg.sam.mobile import MOBILE_SAM

Pixels = NDArray[np.uint8]
Map = NDArray[np.float32]
Mask = NDArray[np.bool_]
_BETA = 0.3  # β², the weight of recall in F that papers on saliency use
_LEVELS = np.linspace(0, 1, 52)[:-1]


def paste(photo: Path, cutout: Image.Image, draw: np.random.Generator) -> tuple[Pixels, Mask]:
    """The cut-out at a random place of the photo, and where it is."""
    back = Image.open(photo).convert("RGB")
    scale = draw.uniform(0.3, 0.7) * min(back.width / cutout.width, back.height / cutout.height)
    size = (max(8, round(cutout.width * scale)), max(8, round(cutout.height * scale)))
    front = cutout.resize(size, Image.Resampling.LANCZOS)
    x, y = (int(draw.integers(0, room + 1)) for room in (back.width - size[0], back.height - size[1]))
    back.paste(front, (x, y), front)
    mask = np.zeros((back.height, back.width), bool)
    mask[y : y + size[1], x : x + size[0]] = np.asarray(front.getchannel("A")) > 127
    return np.array(back), mask


def opened(path: Path) -> Image.Image:
    """A cut-out without empty borders."""
    front = Image.open(path).convert("RGBA")
    return front.crop(front.getchannel("A").getbbox())


def token_cut(encoded: EncodedImage) -> Map:
    """TokenCut on the structure of at most 400 cells, its borders drawn on the image."""
    found = salient_object(at_most_cells(structure_of(encoded).float().cpu(), 400))
    (mask,) = sharp_masks(torch.from_numpy(encoded.image), found[None].float())
    return mask.numpy().astype(np.float32)


def middle(size: tuple[int, int]) -> Map:
    """A Gaussian about the middle, a quarter of the sides wide."""
    y, x = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in size)
    prior: Map = np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * 0.25**2))
    return prior


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union; 0 of nothing."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def figures(maps: Sequence[Map], truths: Sequence[Mask]) -> dict[str, float]:
    """Largest F of the mean precision and recall over images, mean IoU and accuracy at 0.5, in percent."""
    curves = []
    for level in _LEVELS:
        pairs = [(found > level, truth) for found, truth in zip(maps, truths, strict=True)]
        precision = np.mean([(m & t).sum() / max(1, m.sum()) for m, t in pairs])
        recall = np.mean([(m & t).sum() / t.sum() for m, t in pairs])
        curves.append((1 + _BETA) * precision * recall / max(1e-9, _BETA * precision + recall))
    half = [(found > 0.5, truth) for found, truth in zip(maps, truths, strict=True)]
    accuracy = np.mean([(m == t).mean() for m, t in half])
    return {
        "max F": 100 * float(max(curves)),
        "IoU": 100 * float(np.mean([iou(m, t) for m, t in half])),
        "accuracy": 100 * float(accuracy),
    }


def candidates(encoded: EncodedImage) -> dict[str, list[tuple[Mask, float]]]:
    """The masks of each proposer with their scores."""
    image = torch.from_numpy(encoded.image)
    found = {"cuts": cut_masks(image, structure_of(encoded)), "SAM": sam_masks(*ask_sam(encoded, MOBILE_SAM))}
    return {name: [(mask.numpy(), score) for mask, score in masks] for name, masks in found.items()}


def saliency(options: argparse.Namespace, segmenter: Segmenter) -> dict[str, Any]:
    """The table of ``saliency``."""
    draw = np.random.default_rng(options.seed)
    cutouts, photos = find_images(options.cutouts), find_images(options.photos)
    maps: dict[str, list[Map]] = {}
    truths, tiles = [], []
    for _ in range(options.count):
        cutout, photo = cutouts[draw.integers(len(cutouts))], photos[draw.integers(len(photos))]
        pixels, truth = paste(photo, opened(cutout), draw)
        encoded = segmenter.encode(pixels)
        found = {"TokenCut": token_cut(encoded), "middle": middle(truth.shape)}
        for name, masks in candidates(encoded).items():
            nothing = (np.zeros(truth.shape, bool), 0.0)
            surest = max(masks, key=lambda pair: pair[1], default=nothing)[0]
            best = max(masks, key=lambda pair: iou(pair[0], truth), default=nothing)[0]
            found |= {
                f"{name}, surest": surest.astype(np.float32),
                f"{name}, by the truth": best.astype(np.float32),
            }
        truths.append(truth)
        for name, one in found.items():
            maps.setdefault(name, []).append(one)
        tiles.append(strip(pixels, found))
    if options.sheet:
        stack(tiles).save(options.sheet)
    return {name: figures(found, truths) for name, found in maps.items()}


def strip(pixels: Pixels, found: dict[str, Map]) -> Image.Image:
    """The picture and what each way found of it."""
    tiles = [captioned(boxed(Image.fromarray(pixels), 140), "picture")]
    for name, one in found.items():
        shown = Image.fromarray((pixels * (0.2 + 0.8 * one[..., None])).astype(np.uint8))
        tiles.append(captioned(boxed(shown, 140), name))
    return grid(tiles, columns=len(tiles))


def common(options: argparse.Namespace, segmenter: Segmenter) -> dict[str, Any]:
    """The table of ``common``."""
    draw = np.random.default_rng(options.seed)
    cutouts, photos = find_images(options.cutouts), find_images(options.photos)
    maps: dict[str, list[Map]] = {"co-saliency": [], "TokenCut": [], "middle": []}
    truths: list[Mask] = []
    for _ in range(options.count):
        front = opened(cutouts[draw.integers(len(cutouts))])
        made = []
        for number in range(6):
            turned = front.rotate(float(draw.uniform(-20, 20)), expand=True, resample=Image.Resampling.BICUBIC)
            turned = ImageOps.mirror(turned) if number % 2 else turned
            made.append(paste(photos[draw.integers(len(photos))], turned, draw))
        truths += [truth for _, truth in made]
        maps["co-saliency"] += [
            each.mask.astype(np.float32) for each in cosaliency([pixels for pixels, _ in made], segmenter=segmenter)
        ]
        maps["TokenCut"] += [token_cut(segmenter.encode(pixels)) for pixels, _ in made]
        maps["middle"] += [middle(truth.shape) for _, truth in made]
    return {name: figures(found, truths) for name, found in maps.items()}


def purity(owner: Sequence[int], names: Sequence[str]) -> float:
    """Share, in percent, of the photos that have their group's most frequent name; −1 is no group, and wrong."""
    right = 0
    for group in set(owner) - {-1}:
        right += max(Counter(name for own, name in zip(owner, names, strict=True) if own == group).values())
    return 100 * right / len(names)


def groups(options: argparse.Namespace, segmenter: Segmenter) -> dict[str, Any]:
    """The table of ``groups``."""
    by_name: dict[str, list[Path]] = {}
    with open(options.table, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            by_name.setdefault(row["name"], []).append((options.photos / row["file"]).resolve())
    draw = np.random.default_rng(options.seed)
    able = [name for name in sorted(by_name) if len(by_name[name]) >= options.each]
    chosen = [str(name) for name in draw.permutation(able)[: options.names]]
    photos = [(path, name) for name in chosen for path in by_name[name][: options.each]]
    names = [name for _, name in photos]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "photos.txt"
        listed.write_text("\n".join(str(path) for path, _ in photos), encoding="utf-8")
        out = Path(folder) / "found" if options.out is None else options.out
        found = discover(listed, out=out, segmenter=segmenter, by=options.by, groups=options.groups or "auto")
    home = {(member.path, member.object): group.number for group in found.groups for member in group.members}
    firsts = [
        [home[str(path), number] for number in range(20) if (str(path), number) in home] for path, _ in photos
    ]
    owner = [own[0] if own else -1 for own in firsts]
    members = [dict.fromkeys(member.path for member in group.members) for group in found.groups]
    named = dict((str(path), name) for path, name in photos)
    majority = [max(Counter(named[path] for path in paths).values()) / len(paths) for paths in members]
    whole = np.stack([image_vector(segmenter.encode(path)) for path, _ in photos])
    count = len(found.groups)
    weights = [len(paths) for paths in members]
    return {
        "photos": len(photos),
        "groups": count,
        "objects in groups": len(home),
        "photos with a group": sum(number >= 0 for number in owner),
        "purity, photos by their surest grouped object": purity(owner, names),
        "purity of those with a group": purity(
            [own for own in owner if own >= 0], [name for own, name in zip(owner, names, strict=True) if own >= 0]
        ),
        "purity, photos of all groups": 100 * float(np.average(majority, weights=weights)) if weights else 0.0,
        "purity, whole photos, as many groups": purity(whole_groups(whole, count), names),
    }


def whole_groups(vectors: NDArray[np.float32], count: int) -> list[int]:
    """K-means of whole photos, none left out."""
    own: list[int] = cluster_vectors(np.ascontiguousarray(vectors), max(1, count), seed=0)[0].tolist()
    return own


def stuff(options: argparse.Namespace, segmenter: Segmenter) -> dict[str, Any]:
    """The table of ``stuff``."""
    categories = json.loads(options.categories.read_text(encoding="utf-8"))["categories"]
    kinds = [each["id"] for each in categories if not each["isthing"]]
    photos = find_images(options.photos)[: options.count]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "photos.txt"
        listed.write_text("\n".join(str(path.resolve()) for path in photos), encoding="utf-8")
        out = Path(folder) / "found" if options.out is None else options.out
        made = discover(listed, out=out, segmenter=segmenter, by=options.by, stuff=options.groups)
        found = made.objects()
    home = {(m.path, m.object): group.number for group in made.groups if group.stuff for m in group.members}
    numbers = {number: place for place, number in enumerate(sorted(set(home.values())))}
    shown, owner, colours, total = [], [], [], np.zeros(len(kinds), np.int64)
    for photo in found.photos:
        truth = np.asarray(Image.open(options.masks / f"{Path(photo.path).stem}.png"))
        pixels = np.asarray(Image.open(photo.path).convert("RGB"))
        total += of_kinds(truth, kinds)
        for number, segment in enumerate(photo.parts(stuff=True).segments):
            mask = segment.mask()
            shown.append(of_kinds(truth[mask], kinds))
            owner.append(numbers[home[photo.path, number]])
            colours.append(pixels[mask].mean(0) - 127.5)
    count, table = len(numbers), np.array(shown)
    unit = np.array(colours, np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    draw = np.random.default_rng(options.seed)
    ways = {
        "groups of discover": np.array(owner),
        "by mean colour": cluster_vectors(unit, count, seed=options.seed)[0],
        "by chance": draw.integers(0, count, len(owner)),
        "all in one": np.zeros(len(owner), np.int64),
    }
    facts = {"photos": len(found.photos), "regions": len(owner), "groups": count, "kinds": int((total > 0).sum())}
    share = 100 * float(table.sum() / total.sum())
    tables = {name: stuff_figures(gathered(table, own, count), total) for name, own in ways.items()}
    return facts | {"stuff that has a group": share} | tables


def of_kinds(truth: NDArray[Any], kinds: Sequence[int]) -> NDArray[np.int64]:
    """Pixels of each kind."""
    return np.bincount(truth.ravel(), minlength=max(kinds) + 1)[list(kinds)]


def gathered(table: NDArray[np.int64], owner: NDArray[Any], groups: int) -> NDArray[np.int64]:
    """(R, C) pixels of kinds in regions to (K, C), in groups."""
    found = np.zeros((groups, table.shape[1]), np.int64)
    np.add.at(found, owner, table)
    return found


def stuff_figures(counts: NDArray[np.int64], total: NDArray[np.int64]) -> dict[str, float]:
    """Purity, and the mean IoU and accuracy of the best one-to-one matching, in percent.

    Args:
        counts: (K, C) pixels of each kind in each group.
        total: (C,) pixels of each kind, those in no group among them.
    """
    union = counts.sum(1, keepdims=True) + total - counts
    ious = counts / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(ious, maximize=True)
    most = linear_sum_assignment(counts, maximize=True)
    return {
        "purity": 100 * float(counts.max(1).sum() / counts.sum()),
        "mean IoU": 100 * float(ious[rows, columns].sum() / (total > 0).sum()),
        "accuracy": 100 * float(counts[most].sum() / total.sum()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    tables: dict[str, Callable[[argparse.Namespace, Segmenter], dict[str, Any]]]
    tables = {"saliency": saliency, "common": common, "groups": groups, "stuff": stuff}
    for name, function in tables.items():
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--model", default="mini")
        if name in {"groups", "stuff"}:
            command.add_argument("photos", type=Path)
            if name == "groups":
                command.add_argument("table", type=Path)
                command.add_argument("--names", type=int, default=25)
                command.add_argument("--each", type=int, default=8)
            else:
                command.add_argument("masks", type=Path)
                command.add_argument("categories", type=Path)
                command.add_argument("--count", type=int, default=60)
            command.add_argument("--by", default="normalized_cut")
            command.add_argument("--groups", type=int, default=27 if name == "stuff" else None)
            command.add_argument("--out", type=Path, help="keep what is found in this folder")
        else:
            command.add_argument("cutouts")
            command.add_argument("photos")
            command.add_argument("--count", type=int, default=30 if name == "saliency" else 5)
            command.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    print(json.dumps(options.function(options, ovseg.load(options.model)), indent=2))


if __name__ == "__main__":
    main()
