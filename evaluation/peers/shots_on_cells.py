"""Many ways to learn from pictures side by side, quickly: on cached features, unrefined, at a quarter of a cell.

python evaluation/peers/shots_on_cells.py facade8 ../shared/data/facade-train100 --ways auto runs/few-shot \
    runs/few-shot+auto --shots 1 5 --seeds 2 --limit 15 --features runs/features

A way is a method, the folder of a trained run, or the latter + a method whose answer is averaged with it. Every way
sees the same pictures and judges the same images, evenly spread over those that show nothing. ``--part 1 6`` takes
every sixth image from the second on, as of data whose first of four trained ``mini``. Prints mean IoU by pictures
alone, and by words and pictures. ``shots_table.py`` measures whole calls instead, borders refined.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.examples import MeanSight, Shot, Sight, View, teach
from ovseg.examples.shot import Lesson, Words
from ovseg.heads.shots import ShotHead
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.pipeline.examples import view_from
from ovseg.pipeline.logits import ClassLogits, class_logits
from ovseg.pipeline.queries import QueryBank, encode_phrases
from ovseg.training.augment import Augmentation
from ovseg.training.data import MaskData, open_source
from ovseg.training.episodes import present, prompt_of
from ovseg.training.features import FeatureCache
from ovseg.training.recipes.masks import phrases_and_owners
from ovseg.training.views import Views
from ovseg.vocabulary.labels import Vocabulary
from ovseg.vocabulary.templates import Templates


class Photos:
    """A data set with cached features, and what words say of its images."""

    def __init__(self, protocol: str, data: str, model: str, features: Path, part: slice = slice(None)) -> None:
        self.model = build_model(read_model_config(model))
        source = open_source(MaskData(protocol=protocol, path=data))
        plain = Augmentation(mosaic=0, mix=0)
        self.views = Views(source, self.model, FeatureCache(features, progress=True), augmentation=plain, seed=0)
        self.places = range(len(self.views))[part]
        phrases, owner = phrases_and_owners(source)
        encode = self.model.text().encode
        vectors = encode_phrases(phrases, Templates.named(self.model.config.templates), encode)
        self.words = Words(self.model.head.phrases(vectors).values, torch.tensor(owner))
        self.labels = len(source.phrases)
        names = Vocabulary.of([str(number) for number in range(self.labels)], background=None)
        scale, space = self.model.config.logit_scale, self.model.head.space
        self.queries = QueryBank.of_vectors(self.words.vectors, owner, names, space=space, logit_scale=scale)

    def see(self, index: int) -> tuple[View, ClassLogits]:
        """An image as methods see it, and its logits by words."""
        view, head = self.views.fetch(index), self.model.head
        maps = [torch.from_numpy(np.array(each)) for each in (view.features, view.structure) if each is not None]
        values, *structure = (each.permute(2, 0, 1)[None].float() for each in maps)
        similar = structure[0] if structure else None
        dense = DenseFeatures(values, head.feature_space, self.views.stride, structure=similar)
        joint = head.pixels(dense)
        logits = class_logits(head, joint, self.queries, smoothing=self.model.config.smoothing)
        both = DenseFeatures(joint.values, joint.space, joint.stride, structure=similar, inputs=values)
        return view_from(both, logits.values, torch.zeros(3, *dense.grid)), logits

    def drawn(self, shots: int, seed: int, limit: int) -> tuple[list[Shot], list[int]]:
        """Pictures of every class, and the images to judge."""
        truths = {index: self.views.fetch(index).truth for index in self.places}
        shown = {index: present(truth) for index, truth in truths.items()}
        order = np.random.default_rng(seed).permutation(self.places).tolist()
        chosen = [(n, i) for n in range(self.labels) for i in [i for i in order if n in shown[i]][:shots]]
        generator = torch.Generator().manual_seed(seed)
        made = [Shot(self.see(i)[0], n, prompt_of(truths[i] == n, "mask", generator)) for n, i in chosen]
        rest = sorted(set(order) - {index for _, index in chosen})
        return made, [rest[int(place)] for place in np.linspace(0, len(rest) - 1, min(limit, len(rest)))]


def learned(way: str, photos: Photos, shots: Sequence[Shot], *, named: bool) -> tuple[Sight, torch.Tensor]:
    """What a way learns, and the classes that it judges."""
    shown = sorted({shot.label for shot in shots})
    others = [number for number in range(photos.labels) if number not in shown]
    rows = torch.tensor([*shown, *others])
    numbered = [Shot(shot.view, shown.index(shot.label), shot.share) for shot in shots]
    names = torch.tensor([named] * len(shown) + [True] * len(others))
    run, _, beside = way.partition("+")
    few = Lesson(numbered, rows[: len(shown)], names[: len(shown)])
    if not Path(run).is_dir():
        return teach(few, method=run), few.rows
    head = build_model(read_model_config(run)).head
    assert isinstance(head, ShotHead)
    words = Words(photos.words.vectors, rows.argsort()[photos.words.label])
    sight: Sight = head.learn(Lesson(numbered, rows, names, words))
    return (MeanSight(sight, teach(few, method=beside)) if beside else sight), rows


def answers(
    photos: Photos, index: int, sights: dict[Any, tuple[Sight, torch.Tensor]]
) -> Iterator[tuple[Any, torch.Tensor]]:
    """(K, h, w) logits of an image by each sight, and by words."""
    view, logits = photos.see(index)
    yield ("words", True), logits.values
    for key, (sight, rows) in sights.items():
        trust, evidence = sight(view)
        found = logits.values.clone()
        found[rows] = trust[:, None, None] * logits.values[rows] + logits.smooth(evidence)
        yield key, found


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark")
    parser.add_argument("data")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--ways", nargs="+", default=["auto"])
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=15)
    parser.add_argument("--features", type=Path, default=Path("runs/features"))
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("FIRST", "STEP"))
    given = parser.parse_args()
    photos = Photos(
        given.benchmark, given.data, given.model, given.features, slice(given.part[0], None, given.part[1])
    )
    for count in given.shots:
        scores: dict[Any, list[float]] = {}
        for seed in range(given.seeds):
            shots, asked = photos.drawn(count, seed, given.limit)
            keys = [(way, named) for way in given.ways for named in (False, True)]
            sights = {key: learned(key[0], photos, shots, named=key[1]) for key in keys}
            counts: dict[Any, Any] = {key: 0 for key in (("words", True), *keys)}
            for index in asked:
                truth = torch.from_numpy(np.array(photos.views.fetch(index).truth)).long()
                for key, found in answers(photos, index, sights):
                    best = functional.interpolate(found[None], size=truth.shape, mode="bilinear")[0].argmax(0)
                    pairs = (truth * photos.labels + best)[truth >= 0]
                    counts[key] = counts[key] + torch.bincount(pairs, minlength=photos.labels**2)
            for key, table in counts.items():
                scores.setdefault(key, []).append(mean_iou(table.view(photos.labels, -1).double()))
        for way in ("words", *given.ways):
            shown = [
                f"{np.mean(scores[way, named]):.1f}" if (way, named) in scores else "" for named in (False, True)
            ]
            print(f"| {count} | {way} | {' | '.join(shown)} |", flush=True)


def mean_iou(table: torch.Tensor) -> float:
    """In percent, of (K, K) pixels by truth and answer, over the classes that the truth shows."""
    right = table.diagonal()
    union = table.sum(0) + table.sum(1) - right
    return float(100 * (right / union)[table.sum(1) > 0].mean())


if __name__ == "__main__":
    main()
