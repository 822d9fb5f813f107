"""What a model makes of colours in its labels: cut-outs recoloured and pasted into photos.

python evaluation/peers/phrases.py ../shared/data/cutouts ../shared/data/coco-train100 --half second --show out/

Two copies of a thing in two colours are asked for as "red car" and "blue car", and by the noun alone, whose map
is then compared with each copy: what ignoring the colour gives, at best a half. One copy is asked for by its own
colour and by another, alone. The first half of the things is for choosing settings, the second for reporting.
Prints, in percent, means over the pictures: ``pair`` IoU of the two labels, ``noun`` IoU of the noun's map with
each copy, ``own`` IoU of one copy asked for by its colour, ``plain`` by its noun, ``other`` share of the copy that
another colour paints, and ``spread`` the share of the picture that it paints.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
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
_DARK = 0.2  # brightness under which a cut-out keeps its colour: tyres, eyes, gaps
_SIDE = 0.5  # of a pasted copy, by the shorter side of the photo

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A photo with one copy of a thing or two.

    Attributes:
        pixels: (H, W, 3).
        noun: the thing.
        colours: of the copies, and one more, which none has.
        masks: (H, W) of the copies.
    """

    pixels: Pixels
    noun: str
    colours: tuple[str, ...]
    masks: tuple[Mask, ...]


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


def scenes(cutouts: Path, photos: Path, things: Sequence[str], *, copies: int, each: int) -> Iterator[Scene]:
    """``each`` pictures of every thing with so many copies, in colours and photos drawn by a fixed seed."""
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
            yield Scene(pixels, THINGS[thing], colours, tuple(masks))


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


def iou(found: Mask, truth: Mask) -> float:
    """Intersection over union; 0 where nothing was found."""
    return float((found & truth).sum() / (found | truth).sum())


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
        "pair": float(np.mean([iou(result[name], mask) for name, mask in zip(names, scene.masks, strict=True)])),
        "noun": float(np.mean([iou(plain, mask) for mask in scene.masks])),
    }


def measure_one(segmenter: Segmenter, scene: Scene, *, refine: bool) -> dict[str, float]:
    """``own``, ``plain``, ``other`` and ``spread`` of a scene with one copy."""
    encoded = segmenter.encode(scene.pixels)
    (mask,) = scene.masks
    own, other = (f"{colour} {scene.noun}" for colour in scene.colours)
    found = {name: segmenter.segment(encoded, [name], refine=refine)[name] for name in (own, other, scene.noun)}
    return {
        "own": iou(found[own], mask),
        "plain": iou(found[scene.noun], mask),
        "other": float(found[other][mask].mean()),
        "spread": float(found[other].mean()),
    }


def main() -> None:
    """Paste, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cutouts", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--half", choices=["first", "second"], default="second")
    parser.add_argument("--each", type=int, default=3, help="pictures of a thing")
    parser.add_argument("--no-refine", action="store_true")
    parser.add_argument("--show", type=Path, help="folder for overlays of the pairs")
    given = parser.parse_args()
    segmenter = ovseg.load(given.model)
    things = list(THINGS)[0 if given.half == "first" else 1 :: 2]
    rows: dict[str, list[float]] = {}
    for copies in (2, 1):
        for scene in scenes(given.cutouts, given.photos, things, copies=copies, each=given.each):
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
