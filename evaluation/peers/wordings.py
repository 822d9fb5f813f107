"""Whether other wordings of a name find what the name finds: plurals, articles, counts, "a photo of", materials.

python evaluation/peers/wordings.py ../shared/data/coco-train100 --forms
python evaluation/peers/wordings.py ../shared/data/coco-train100 --materials

Each name that a photo shows is asked for alone, in every wording. Prints the mean IoU in percent over the pairs of
photo and name, and half of its 95 % interval of the difference to the plain name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import ovseg

FORMS = {
    "name": "{one}",
    "plural": "{many}",
    "a": "{a} {one}",
    "the": "the {one}",
    "some": "some {many}",
    "two": "two {many}",
    "3": "3 {many}",
    "photo": "a photo of {a} {one}",
    "picture": "picture of two {many}",
}
NOT_COUNTED = {"skis", "scissors", "broccoli"}  # names that are plural already, or have none
LAST_THING = 90  # number of COCO's last thing in the masks; stuff follows
IRREGULAR = {"person": "people", "sheep": "sheep", "couch": "couches", "bench": "benches", "bus": "buses"}
# names of the data, the thing, and the thing with what it is made of
MATERIALS = {
    "wall-brick": ("wall", "brick wall"),
    "wall-stone": ("wall", "stone wall"),
    "wall-tile": ("wall", "tiled wall"),
    "wall-wood": ("wall", "wooden wall"),
    "floor-wood": ("floor", "wooden floor"),
    "table-merged": ("table", "wooden table"),
    "dining table": ("table", "wooden table"),
    "chair": ("chair", "wooden chair"),
    "bench": ("bench", "wooden bench"),
    "cabinet-merged": ("cabinet", "wooden cabinet"),
    "fence-merged": ("fence", "metal fence"),
    "bottle": ("bottle", "glass bottle"),
    "building-other-merged": ("building", "brick building"),
    "couch": ("couch", "leather couch"),
    "bowl": ("bowl", "plastic bowl"),
}


def photos_with(data: Path, names: Mapping[str, int]) -> Iterator[tuple[Path, str, npt.NDArray[np.bool_]]]:
    """Every photo with each name that covers at least 1 % of it."""
    for path in sorted((data / "masks").glob("*.png")):
        mask = np.array(Image.open(path))
        (photo,) = (data / "images").glob(f"{path.stem}.*")
        for name, number in names.items():
            if (mask == number).mean() >= 0.01:
                yield photo, name, mask == number


def wordings(name: str, *, forms: bool) -> dict[str, str]:
    """The wordings of a name, the plain one first."""
    if not forms:
        return dict(zip(("name", "material"), MATERIALS[name], strict=True))
    words = {"one": name, "many": IRREGULAR.get(name, f"{name}s"), "a": "an" if name[0] in "aeiou" else "a"}
    return {form: text.format(**words) for form, text in FORMS.items()}


def main() -> None:
    """Ask, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--every", type=int, default=1, help="take every so many pairs of photo and name")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--forms", action="store_true")
    way.add_argument("--materials", action="store_true")
    given = parser.parse_args()
    listed = json.loads((given.data / "categories.json").read_text(encoding="utf-8"))["categories"]
    things = {entry["name"] for entry in listed if entry["id"] <= LAST_THING} - NOT_COUNTED
    asked = things if given.forms else MATERIALS
    numbers = {entry["name"]: entry["id"] for entry in listed if entry["name"] in asked}
    segmenter = ovseg.load(given.model)
    rows: dict[str, dict[str, list[float]]] = {}
    for photo, name, truth in list(photos_with(given.data, numbers))[:: given.every]:
        encoded = segmenter.encode(photo)
        for form, label in wordings(name, forms=given.forms).items():
            found = segmenter.segment(encoded, [label], refine=False)[label]
            value = 100 * float((found & truth).sum() / (found | truth).sum())
            for group in ("all", name):
                rows.setdefault(group, {}).setdefault(form, []).append(value)
    for group, forms in rows.items():
        if given.materials or group == "all":
            plain = np.array(forms["name"])
            print(f"{group} ({len(plain)})")
            for form, values in forms.items():
                apart = np.array(values) - plain
                half = 1.96 * apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
                print(f"  {form}: {np.mean(values):.1f} ({apart.mean():+.1f} ± {half:.1f})")


if __name__ == "__main__":
    main()
