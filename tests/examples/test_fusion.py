from __future__ import annotations

import math

import pytest
import torch
from helpers.shots import scores_of
from torch import Tensor
from torch.nn import functional

from ovseg.examples import Shot, View, teach
from ovseg.examples.calibrate import calibrate
from ovseg.examples.fusion import RULES, fuse
from ovseg.examples.prototypes import kmeans_prototypes, mean_prototypes
from ovseg.examples.shot import Comparison, Lesson


def view(seed: int, channels: int = 6) -> View:
    generator = torch.Generator().manual_seed(seed)
    features = functional.normalize(torch.randn(channels, 4, 5, generator=generator), dim=0)
    return View(features, torch.randn(3, 4, 5, generator=generator), torch.rand(3, 4, 5, generator=generator))


def shots(*seeds: int, label: int = 0) -> list[Shot]:
    return [Shot(seen, label, (seen.features[0] > 0).float()) for seen in map(view, seeds)]


def lesson(given: list[Shot], rows: list[int], *, named: bool = True) -> Lesson:
    return Lesson(given, torch.tensor(rows), torch.tensor([named] * len(rows)))


def test_the_mean_prototype_is_the_mean_of_the_means_of_shots() -> None:
    given = shots(0, 1)
    means = []
    for each in given:
        cells = [each.view.features[:, r, c].double() for r, c in each.inside.nonzero().tolist()]
        mean = sum(cells) / len(cells)
        means.append(mean / mean.norm())
    expected = sum(means) / 2
    expected = expected / expected.norm()
    seen = view(9)
    scores = scores_of(mean_prototypes(), lesson(given, [0]))(seen)
    for row in range(4):
        for column in range(5):
            by_hand = float(expected @ seen.features[:, row, column].double())
            assert float(scores[0, row, column]) == pytest.approx(by_hand, abs=1e-6)


def test_a_label_known_by_sight_alone_is_measured_against_the_words_of_those_that_have_a_name() -> None:
    """Of three classes the first two have pictures and no name: their odds are against the third alone, by hand."""
    given, seen = [*shots(0, 1), *shots(2, 3, label=1)], view(9)
    taught = fuse(mean_prototypes(), lesson(given, [0, 1], named=False), rule="sight")
    odds = ((scores_of(mean_prototypes(), lesson(given, [0, 1]))(seen) - taught.threshold) / taught.spread).clamp(
        -6, 6
    )
    torch.testing.assert_close(taught(seen)[1], odds + seen.text[2])


def test_kmeans_takes_the_nearest_of_several_looks() -> None:
    """A thing of two looks that are opposite: the mean knows neither, the centres know both."""
    looks = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    features = looks[torch.tensor([0, 1, 0, 1])].T.reshape(3, 2, 2)
    seen = View(features, torch.zeros(1, 2, 2), torch.zeros(3, 2, 2))
    taught = lesson([Shot(seen, 0, torch.ones(2, 2))], [0])
    assert scores_of(kmeans_prototypes(count=2), taught)(seen).flatten().tolist() == pytest.approx([1] * 4)
    assert scores_of(mean_prototypes(), taught)(seen).flatten().tolist() == pytest.approx([math.sqrt(0.5)] * 4)


def test_kmeans_takes_away_what_is_like_the_background() -> None:
    """By a loop over all cells of the shots: with as many centres as cells, each is its own prototype."""
    (given,) = shots(0)
    cells = given.view.features.flatten(1).T.double()
    inside = given.inside.flatten()
    mean = cells[inside].mean(0) / cells[inside].mean(0).norm()
    seen = view(9)
    scores = scores_of(kmeans_prototypes(count=20, others=20), lesson([given], [0]))(seen)[0]
    for place, cell in enumerate(seen.features.flatten(1).T.double()):
        like = max(float(cell @ mean), *(float(cell @ each) for each in cells[inside]))
        unlike = max(float(cell @ each) for each in cells[~inside])
        assert float(scores.flatten()[place]) == pytest.approx(like - unlike, abs=1e-6)


def test_log_odds_are_left_as_they_are() -> None:
    odds: Comparison[None] = Comparison(lambda shots: None, lambda seen, taught: 3 * seen.features[:1])
    found = fuse(odds, lesson(shots(0), [1]), rule="sight", calibrated=False)
    seen = view(5)
    logits = seen.text.clone()
    trust, evidence = found(seen)
    logits[1] = trust * logits[1] + evidence[0]
    torch.testing.assert_close(logits.softmax(0)[1], (3 * seen.features[0]).sigmoid())


def test_each_label_has_its_own_prototypes() -> None:
    both = [*shots(0, 1), *shots(2, label=1)]
    seen = view(9)
    for method in (mean_prototypes(), kmeans_prototypes()):
        together = scores_of(method, lesson(both, [0, 2]))(seen)
        torch.testing.assert_close(together[0], scores_of(method, lesson(both[:2], [0]))(seen)[0])
        alone = [Shot(each.view, 0, each.share) for each in both[2:]]
        torch.testing.assert_close(together[1], scores_of(method, lesson(alone, [2]))(seen)[0])


def test_a_lone_shot_is_calibrated_on_itself_and_several_on_each_other() -> None:
    taught: list[int] = []

    first_channel: Comparison[None] = Comparison(
        lambda shots: taught.append(len(shots)), lambda seen, kept: seen.features[:1]
    )
    one = fuse(first_channel, lesson(shots(0), [0]), rule="sight")
    assert taught == [1, 1]
    (each,) = shots(0)
    threshold, spread, _ = calibrate(each.view.features[0][each.inside], each.view.features[0][~each.inside])
    assert (float(one.threshold), float(one.spread)) == pytest.approx((threshold, spread))
    taught.clear()
    fuse(first_channel, lesson(shots(0, 1, 2), [0]), rule="sight")
    assert taught == [3, 2, 2, 2]


def test_sight_is_the_odds_against_all_other_classes() -> None:
    """By sight alone, the probability of a label is the sigmoid of its calibrated score, whatever the words are."""
    found = fuse(mean_prototypes(), lesson(shots(0, 1), [1], named=False), rule="growing")
    seen = view(5)
    trust, evidence = found(seen)
    assert trust.tolist() == [0]
    score = scores_of(mean_prototypes(), lesson(shots(0, 1), [1]))(seen)[0]
    logits = seen.text.clone()
    logits[1] = evidence[0]
    odds = ((score - found.threshold) / found.spread).clamp(-6, 6)[0]
    torch.testing.assert_close(logits.softmax(0)[1], odds.sigmoid(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_rules_by_hand(rule: str) -> None:
    words, sight = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, -2.0]]])
    by_hand = {
        "growing": [1 + 2 * 3 / 5, 2 - 4 * 3 / 5],  # three shots: λ = 3/(3 + 2)
        "product": [2.0, 0.0],
        "maximum": [3.0, 2.0],
        "sight": [3.0, -2.0],
    }
    found = RULES[rule](words, sight, torch.tensor([[[3.0]]]))
    assert found.flatten().tolist() == pytest.approx(by_hand[rule])


def test_words_and_evidence_add_to_the_rule() -> None:
    seen = view(5)
    trust, evidence = teach(lesson(shots(0, 1), [2]), method="mean", fusion="maximum")(seen)
    _, alone = teach(lesson(shots(0, 1), [2], named=False), method="mean")(seen)
    both: Tensor = trust[:, None, None] * seen.text[2:3] + evidence
    torch.testing.assert_close(both, torch.maximum(seen.text[2:3], alone))
