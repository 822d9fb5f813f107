"""Episodes: what they show and ask, and what never comes into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import make_segmenter
from helpers.training import write_masks

from ovseg.heads.multimodal import MultiModal, MultiModalSettings
from ovseg.heads.stacked import Widths
from ovseg.training.augment import Augmentation
from ovseg.training.data import MaskData, open_source
from ovseg.training.episodes import Episodes, Rules, present, prompt_of
from ovseg.training.features import FeatureCache
from ovseg.training.views import Views

RULES = Rules(ways=3, shots=2, prompts={"mask": 1.0, "box": 1.0, "point": 1.0}, wrong_words=0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(folder: Path, **data: Any) -> tuple[Episodes, MultiModal]:
    model = make_segmenter().model
    source = open_source(MaskData(protocol="folder", path=str(folder), **data))
    views = Views(source, model, FeatureCache(folder / "features"), augmentation=Augmentation(), seed=0)
    vectors = model.text().encode(source.phrases)
    owner = torch.arange(len(source.phrases))
    settings = MultiModalSettings(widths=Widths(features=7, text=7, joint=7), width=8, attention_heads=2, inner=8)
    return Episodes(views, count=1, vectors=vectors, owner=owner, smoothing=None), MultiModal(model.head, settings)


def test_a_mask_is_pooled_and_a_point_is_one_of_its_cells() -> None:
    mask = np.zeros((12, 16), bool)
    mask[:8, 4:10] = True  # cells of 4 pixels: two columns of two cells, the second half covered
    assert prompt_of(mask, "mask", seeded()).tolist() == [[0, 1, 0.5, 0]] * 2 + [[0] * 4]
    found = torch.stack([prompt_of(mask, "point", seeded(seed)) for seed in range(40)])
    assert set(found.sum((1, 2)).tolist()) == {1}
    where = {tuple(place) for place in found.nonzero()[:, 1:].tolist()}
    assert where >= {(0, 1), (1, 1)} and where <= {(0, 1), (1, 1), (0, 2), (1, 2)}


def test_a_box_lies_around_one_part_give_or_take_a_tenth() -> None:
    mask = np.zeros((40, 80), bool)
    mask[8:28, 0:20], mask[8:28, 40:60] = True, True
    mask[12, 5] = mask[12, 45] = False
    lefts = []
    for seed in range(20):
        box = prompt_of(mask, "box", seeded(seed))
        rows, columns = (box > 0).any(1).nonzero().flatten(), (box > 0).any(0).nonzero().flatten()
        assert 6 // 4 <= int(rows[0]) <= 10 // 4 and 26 // 4 - 1 <= int(rows[-1]) <= 30 // 4
        assert bool((box[3:6, columns[1:-1]] == 1).all()), "what is inside the part counts whole, its holes too"
        lefts.append(int(columns[0]) >= 9)
    assert set(lefts) == {True, False}, "each part is drawn at times"


def test_what_takes_less_than_half_a_percent_is_not_shown() -> None:
    truth = np.zeros((20, 20), np.int16)
    truth[0, 0] = 3
    assert present(truth) == {0}
    truth[0, 1], truth[5] = 3, -1
    assert present(truth) == {0, 3}


def test_an_episode_asks_one_picture_and_shows_others(folder: Path) -> None:
    """By hand: three images of sky, road and cat; one is asked, the two others are what may be shown."""
    episodes, head = make(folder)
    assert episodes.images_of == {0: [0, 1, 2], 1: [0, 1, 2], 2: [0, 1, 2]}
    kinds, counts, ways = set(), set(), set()
    for seed in range(30):
        episode, name = episodes.draw(head, RULES, seeded(seed))
        asked = int(name.split("'")[1].split(".")[0])
        truth = episodes.views.fetch(asked).truth
        assert episode.truth.shape == truth.shape and set(episode.truth.unique().tolist()) == {0, 1, 2}
        lesson = episode.lesson
        for given in lesson.shots:
            assert not torch.equal(
                given.view.features,
                torch.from_numpy(np.array(episodes.views.fetch(asked).features)).permute(2, 0, 1),
            )
            kinds.add(given.kind)
        shown = [len(lesson.of_label(label)) for label in range(3)]
        counts.update(shown)
        ways.add((bool(lesson.named.all()), all(shown)))
        assert all(count or named for count, named in zip(shown, lesson.named.tolist(), strict=True))
        trust, evidence = head.learn(lesson)(episode.view)
        assert evidence.shape == (3, *episode.view.grid) and trust.shape == (3,)
    assert kinds == {"mask", "box", "point"} and counts == {0, 1, 2} and len(ways) >= 3


def test_words_by_which_a_class_is_asked_are_its_own_unless_they_are_to_be_wrong(tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "data", seed=0, names=("red", "green", "blue"))
    episodes, head = make(folder)
    for wrong, seeds in ((0.0, 5), (0.99, 20)):
        rules = Rules(3, 1, {"mask": 1.0}, wrong)
        differ = []
        for seed in range(seeds):
            episode, _ = episodes.draw(head, rules, seeded(seed))
            assert episode.lesson.words is not None
            own = own_classes(episodes, episode)
            differ += [a != b for a, b in zip(own, episode.lesson.words.vectors.argmax(1).tolist(), strict=True)]
        assert any(differ) == (wrong > 0)


def own_classes(episodes: Episodes, episode: Any) -> list[int]:
    """The class that each label of an episode is, found again by its pixels in the one image that they fit."""
    for image in range(len(episodes.views)):
        truth = torch.from_numpy(np.array(episodes.views.fetch(image).truth)).long()
        found = [truth[episode.truth == label].unique().tolist() for label in range(3)]
        same = all(len(each) == 1 for each in found) and all(
            int((truth == each[0]).sum()) == int((episode.truth == label).sum()) for label, each in enumerate(found)
        )
        if same:
            return [each[0] for each in found]
    raise AssertionError("no image fits")


def test_what_is_held_out_is_neither_asked_nor_shown(folder: Path) -> None:
    episodes, head = make(folder, held_out_classes=("cat",))
    assert set(episodes.images_of) == {0, 1}
    for seed in range(10):
        episode, _ = episodes.draw(head, RULES, seeded(seed))
        assert len(episode.lesson.rows) == 2 and set(episode.truth.unique().tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_generator_draws_the_same_episode(folder: Path, seed: int) -> None:
    episodes, head = make(folder)
    (one, first), (other, second) = (episodes.draw(head, RULES, seeded(seed)) for _ in range(2))
    assert first == second and torch.equal(one.truth, other.truth) and torch.equal(one.view.text, other.view.text)
    assert [each.kind for each in one.lesson.shots] == [each.kind for each in other.lesson.shots]
