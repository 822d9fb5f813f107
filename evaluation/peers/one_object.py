"""One object of a photo asked by its name, by pictures of others of its kind, or by both: mean IoU over episodes.

python evaluation/peers/one_object.py ../shared/data/coco-things --shots 1 --ways word learned/n insid3+sight/u

The folder holds ``images/`` and ``instances.json`` (COCO). A way is METHOD, METHOD+FUSION or
METHOD+FUSION+masks=SAM, then /n with the name or /u without; "word" asks by the name alone. ``--no-masks`` shows
the pictures as they are. Everyday contrast phrases compete, borders are not refined. Prints the mean and its
standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

import ovseg
from ovseg import Concept

LEAST = 0.01  # of a photo that a kind must take


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-masks", action="store_true", help="nothing points at the thing in its pictures")
    parser.add_argument("--ways", nargs="+", default=["word", "learned/n", "learned/u", "insid3+sight/u"])
    given = parser.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(given.data / "instances.json")
    segmenter = ovseg.load(given.model)

    def mask(image: int, kind: int) -> Any:
        found = coco.loadAnns(coco.getAnnIds(imgIds=[image], catIds=[kind]))
        return np.any([coco.annToMask(each) for each in found], axis=0)

    def path(image: int) -> Path:
        return Path(given.data / "images" / coco.loadImgs([image])[0]["file_name"])

    @cache
    def encoded(image: int) -> Any:
        return segmenter.encode(path(image))

    draw, episodes = random.Random(given.seed), []
    while len(episodes) < given.episodes:
        kind = draw.choice(coco.getCatIds())
        images = [each for each in coco.getImgIds(catIds=[kind]) if mask(each, kind).mean() > LEAST]
        if len(images) > given.shots:
            episodes.append((kind, draw.sample(images, given.shots + 1)))
    overlaps: dict[str, list[float]] = {way: [] for way in given.ways}
    for kind, (asked, *shots) in episodes:
        name, truth = coco.loadCats([kind])[0]["name"], mask(asked, kind)
        pictures = {"images": [path(each) for each in shots]}
        if not given.no_masks:
            pictures["masks"] = [mask(each, kind) for each in shots]
        for way in given.ways:
            method, _, named = way.partition("/")
            label = name if way == "word" else Concept(name, **pictures, use_name=named != "u")
            fields = dict(zip(("method", "fusion", "masks"), method.replace("masks=", "").split("+"), strict=False))
            chosen = segmenter if way == "word" else segmenter.with_examples(**fields)
            found = chosen.segment(encoded(asked), [label], refine=False).mask(name)
            overlaps[way].append(100 * float((found & truth).sum() / (found | truth).sum()))
    for way, values in overlaps.items():
        print(f"{way}: {np.mean(values):.1f} ± {np.std(values) / len(values) ** 0.5:.1f}")


if __name__ == "__main__":
    main()
