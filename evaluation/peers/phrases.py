"""What a model makes of colours in its labels: things in new colours, in their own photos or pasted into others.

python evaluation/peers/phrases.py ../shared/data/coco-things --half second --show out/
python evaluation/peers/phrases.py ../shared/data/coco-train100 --cutouts ../shared/data/cutouts

The objects of photos with COCO's masks are recoloured where they are; with ``--cutouts``, cut-outs are pasted into
the photos. Two things of a kind in two colours are asked for as "red car" and "blue car", and by the noun alone,
whose map is then compared with each thing: what ignoring the colour gives, at best a half. One thing is asked for
by its own colour and by another, alone. Of every two photos or cut-outs the first is for choosing settings, the
second for reporting. Prints, in percent, means over the pictures: ``pair`` IoU of the two labels, ``noun`` IoU of
the noun's map with each thing, ``own`` IoU of one thing asked for by its colour, ``plain`` by its noun, ``other``
share of the thing that another colour paints, and ``spread`` the share of the rest that it paints. Pixels of
further things of the kind do not count.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools.coco import COCO
from skimage.color import hsv2rgb, rgb2hsv

import ovseg
from ovseg.pipeline.segmenter import Segmenter

THINGS = {
    "animals_birds_chicken_profile": "chicken",
    "animals_birds_duck": "duck",
    "animals_birds_pigeon": "bird",
    "animals_mammals_bears_bear": "bear",
    "animals_mammals_bears_toys_edward_bear": "teddy bear",
    "animals_mammals_bovines_cow": "cow",
    "animals_mammals_bovines_sheep": "sheep",
    "animals_mammals_cats_lion": "lion",
    "animals_mammals_dogs_dingo": "dog",
    "animals_mammals_elephant": "elephant",
    "animals_mammals_equines_horse": "horse",
    "animals_mammals_pig": "pig",
    "animals_mammals_rodents_rabbit": "rabbit",
    "food_fruit_apple_red": "apple",
    "food_fruit_pear": "pear",
    "food_vegetables_pepper": "pepper",
    "hobbies_music_string_guitar_electric": "guitar",
    "household_dishes_pitcher_small": "pitcher",
    "household_garbagecan": "garbage can",
    "household_kettle": "kettle",
    "household_wheelie_bin": "bin",
    "plants_flowers_iris": "flower",
    "sports_basketball": "ball",
    "town_roadsigns_traffic_cone": "traffic cone",
    "town_usps_mailbox": "mailbox",
    "vehicles_auto_beetle": "car",
    "vehicles_construction_dumper": "truck",
    "vehicles_emergency_firetruck": "fire truck",
    "vehicles_flight_balloon360": "balloon",
    "vehicles_flight_planes_747": "airplane",
    "vehicles_masstransit_green_korean_bus": "bus",
    "vehicles_race_indycar": "race car",
}
# hue in [0, 1), least saturation, what the saturation is times, least brightness, brightness times
PAINTS = {
    "red": (0.0, 0.6, 1.0, 0.25, 0.75),
    "orange": (0.08, 0.75, 1.0, 0.6, 0.4),
    "yellow": (0.15, 0.65, 1.0, 0.5, 0.5),
    "green": (0.36, 0.5, 1.0, 0.15, 0.7),
    "blue": (0.62, 0.5, 1.0, 0.2, 0.8),
    "purple": (0.79, 0.45, 1.0, 0.2, 0.6),
    "pink": (0.93, 0.3, 0.3, 0.65, 0.35),
    "brown": (0.06, 0.5, 0.6, 0.1, 0.45),
    "black": (0.6, 0.0, 0.1, 0.0, 0.2),
    "white": (0.12, 0.0, 0.06, 0.7, 0.3),
    "grey": (0.6, 0.0, 0.05, 0.25, 0.4),
}
_NOT_PAINTED = {"person"}  # nobody asks for a red person
_LEAST = 0.02  # share of a photo that a thing has at least
_DARK = 0.2  # brightness under which a cut-out keeps its colour: tyres, eyes, gaps
_SIDE = 0.5  # of a pasted copy, by the shorter side of the photo

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A photo with one thing of a kind in a new colour, or two.

    Attributes:
        pixels: (H, W, 3).
        noun: the kind.
        colours: of the things, and one more, which none has.
        masks: (H, W) of each.
        judged: (H, W) whether a pixel counts.
    """

    pixels: Pixels
    noun: str
    colours: tuple[str, ...]
    masks: tuple[Mask, ...]
    judged: Mask


def painted(rgba: Pixels, colour: str) -> Pixels:
    """A cut-out (H, W, 4) in another colour; its dark parts stay as they are."""
    hue, least, times, low, scale = PAINTS[colour]
    hsv = rgb2hsv(rgba[..., :3])
    kept = hsv[..., 2] < _DARK
    new = np.stack(
        [np.full(kept.shape, hue), np.maximum(least, times * hsv[..., 1]).clip(0, 1), low + scale * hsv[..., 2]], -1
    )
    mixed = np.where(kept[..., None], hsv, new)
    return np.concatenate([(255 * hsv2rgb(mixed)).round().astype(np.uint8), rgba[..., 3:]], -1)


def recoloured(folder: Path, *, copies: int, half: int) -> Iterator[Scene]:
    """Of every second photo of a COCO folder the kinds with so many large objects, the largest in new colours."""
    coco = COCO(folder / "instances.json")
    for image in sorted(coco.getImgIds())[half::2]:
        found: dict[str, list[Mask]] = {}
        for entry in coco.loadAnns(coco.getAnnIds(imgIds=image)):
            name = coco.loadCats(entry["category_id"])[0]["name"]
            found.setdefault(name, []).append(coco.annToMask(entry) > 0)
        for name in sorted(found.keys() - _NOT_PAINTED):
            masks = sorted(found[name], key=lambda mask: -int(mask.sum()))
            chosen = tuple(masks[:copies])
            if len(chosen) < copies or chosen[-1].mean() < _LEAST:
                continue
            rng = np.random.default_rng([copies, image])
            colours = tuple(str(colour) for colour in rng.choice(list(PAINTS), copies + 1, replace=False))
            with Image.open(folder / "images" / coco.loadImgs(image)[0]["file_name"]) as photo:
                pixels = np.array(photo.convert("RGB"))
            for colour, mask in zip(colours, chosen, strict=False):
                pixels[mask] = painted(np.dstack([pixels, mask]), colour)[mask, :3]
            others = np.any(masks[copies:], axis=0) if masks[copies:] else np.zeros_like(chosen[0])
            yield Scene(pixels, name, colours, chosen, ~others)


def pasted(cutouts: Path, photos: Path, *, copies: int, half: int, each: int = 2) -> Iterator[Scene]:
    """``each`` pictures of every second thing with so many copies, in colours and photos drawn by a fixed seed."""
    things = list(THINGS)[half::2]
    backgrounds = sorted((photos / "images").iterdir())
    for thing in things:
        rng = np.random.default_rng([copies, list(THINGS).index(thing)])
        cutout = Image.open(cutouts / "images" / f"{thing}.png").convert("RGBA")
        for _ in range(each):
            with Image.open(backgrounds[rng.integers(len(backgrounds))]) as photo:
                pixels = np.array(photo.convert("RGB"))
            colours = tuple(str(name) for name in rng.choice(list(PAINTS), copies + 1, replace=False))
            masks = []
            for number, colour in enumerate(colours[:copies]):
                width = pixels.shape[1] // copies
                pixels, mask = _pasted(pixels, cutout, colour, (number * width, (number + 1) * width), rng)
                masks.append(mask)
            yield Scene(pixels, THINGS[thing], colours, tuple(masks), np.ones(pixels.shape[:2], bool))


def _pasted(
    pixels: Pixels, cutout: Image.Image, colour: str, columns: tuple[int, int], rng: np.random.Generator
) -> tuple[Pixels, Mask]:
    """The photo with the cut-out somewhere in these columns, and where it is."""
    height, room = pixels.shape[0], columns[1] - columns[0]
    scale = min(_SIDE * min(pixels.shape[:2]) / min(cutout.size), 0.9 * height / cutout.height, room / cutout.width)
    size = (max(1, int(cutout.width * scale)), max(1, int(cutout.height * scale)))
    rgba = painted(np.array(cutout.resize(size, Image.Resampling.LANCZOS)), colour)
    top = int(rng.integers(0, height - size[1] + 1))
    left = columns[0] + int(rng.integers(0, room - size[0] + 1))
    place = (slice(top, top + size[1]), slice(left, left + size[0]))
    alpha = rgba[..., 3:] / 255
    whole = pixels.copy()
    whole[place] = (alpha * rgba[..., :3] + (1 - alpha) * pixels[place]).round()
    mask = np.zeros(pixels.shape[:2], bool)
    mask[place] = alpha[..., 0] > 0.5
    return whole, mask


def iou(found: Mask, truth: Mask, judged: Mask) -> float:
    """Intersection over union of judged pixels; 0 where nothing was found."""
    return float((found & truth & judged).sum() / ((found | truth) & judged).sum())


def measure_pair(segmenter: Segmenter, scene: Scene, *, refine: bool, show: Path | None = None) -> dict[str, float]:
    """``pair`` and ``noun`` of a scene with two copies."""
    encoded = segmenter.encode(scene.pixels)
    names = [f"{colour} {scene.noun}" for colour in scene.colours[:2]]
    result = segmenter.segment(encoded, names, refine=refine)
    plain = segmenter.segment(encoded, [scene.noun], refine=refine)[scene.noun]
    if show is not None:
        show.mkdir(parents=True, exist_ok=True)
        result.overlay().save(
            show / f"{len(list(show.iterdir())):03d}-{'-'.join([*scene.colours[:2], scene.noun])}.jpg"
        )
    return {
        "pair": float(
            np.mean([iou(result[name], mask, scene.judged) for name, mask in zip(names, scene.masks, strict=True)])
        ),
        "noun": float(np.mean([iou(plain, mask, scene.judged) for mask in scene.masks])),
    }


def measure_one(segmenter: Segmenter, scene: Scene, *, refine: bool) -> dict[str, float]:
    """``own``, ``plain``, ``other`` and ``spread`` of a scene with one copy."""
    encoded = segmenter.encode(scene.pixels)
    (mask,) = scene.masks
    own, other = (f"{colour} {scene.noun}" for colour in scene.colours)
    found = {name: segmenter.segment(encoded, [name], refine=refine)[name] for name in (own, other, scene.noun)}
    return {
        "own": iou(found[own], mask, scene.judged),
        "plain": iou(found[scene.noun], mask, scene.judged),
        "other": float(found[other][mask].mean()),
        "spread": float(found[other][scene.judged & ~mask].mean()),
    }


def scenes(given: argparse.Namespace, *, copies: int) -> Iterator[Scene]:
    """The pictures that are asked for."""
    half = 0 if given.half == "first" else 1
    if given.cutouts is None:
        return recoloured(given.photos, copies=copies, half=half)
    return pasted(given.cutouts, given.photos, copies=copies, half=half)


def main() -> None:
    """Recolour, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--cutouts", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--half", choices=["first", "second"], default="second")
    parser.add_argument("--most", type=int, default=60, help="pictures with one thing, and with two")
    parser.add_argument("--no-refine", action="store_true")
    parser.add_argument("--show", type=Path, help="folder for overlays of the pairs")
    given = parser.parse_args()
    segmenter = ovseg.load(given.model)
    rows: dict[str, list[float]] = {}
    for copies in (2, 1):
        for scene in islice(scenes(given, copies=copies), given.most):
            if copies == 2:
                found = measure_pair(segmenter, scene, refine=not given.no_refine, show=given.show)
            else:
                found = measure_one(segmenter, scene, refine=not given.no_refine)
            for name, value in found.items():
                rows.setdefault(name, []).append(value)
    print(f"| {' | '.join(rows)} |\n|{'---|' * len(rows)}")
    print(f"| {' | '.join(f'{100 * float(np.mean(values)):.1f}' for values in rows.values())} |")


if __name__ == "__main__":
    main()
