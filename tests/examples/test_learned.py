from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ConfigError, ShapeError
from ovseg.examples import Shot, View, teach
from ovseg.examples.learned import SHARES, LearnedSight, halves_of, learn, share_borne_out
from ovseg.examples.matching import references_of
from ovseg.examples.shot import Lesson, cells_of, spread_out


def view(seed: int, *, text: Tensor | None = None, grid: tuple[int, int] = (3, 4), channels: int = 5) -> View:
    generator = torch.Generator().manual_seed(seed)
    features = functional.normalize(torch.randn(channels, *grid, generator=generator), dim=0)
    words = torch.randn(3, *grid, generator=generator) if text is None else text
    return View(features, words, torch.rand(3, *grid, generator=generator))


def shot(seed: int, label: int, *, rest_known: bool = True, **options: object) -> Shot:
    seen = view(seed, **options)  # type: ignore[arg-type]
    return Shot(seen, label, (seen.features[0] > 0.1).float(), rest_known=rest_known)


def loss_of(values: np.ndarray, shots: list[Shot], rows: list[int], *, ridge: float, doubt: float) -> float:
    """The price that ``learn`` states, cell by cell in float64; values hold weights/10, offsets and distrust."""
    count, channels = len(rows), shots[0].view.features.shape[0]
    weights = values[: count * channels].reshape(count, channels)
    offsets, distrust = values[count * channels :].reshape(2, count)
    paid = 0.0
    for each in shots:
        features, text = each.view.features.double().numpy(), each.view.text.double().numpy()
        inside = each.inside.numpy()
        for row, column in np.ndindex(*inside.shape):
            logits = text[:, row, column].copy()
            for label, place in enumerate(rows):
                sight = 10 * weights[label] @ features[:, row, column] + offsets[label]
                logits[place] = (1 + distrust[label]) * text[place, row, column] + sight
            if not (inside[row, column] or each.rest_known):
                continue
            odds = np.exp(logits - logits.max())
            chance = odds[rows[each.label]] / odds.sum()
            cost = -math.log(chance) if inside[row, column] else -math.log1p(-chance)
            kinds = 2 if each.rest_known and inside.any() else 1
            paid += cost / (inside == inside[row, column]).sum() / kinds
    return paid + ridge * float((weights**2).sum()) + doubt * float((distrust**2).sum() + (offsets**2).sum())


@pytest.mark.parametrize("rest_known", [True, False])
def test_what_is_learned_costs_least(rest_known: bool) -> None:
    """The optimum of the stated price, found by another library from the price alone, without gradients of ours."""
    absent = replace(shot(1, 0), share=torch.zeros(3, 4))
    shots, rows = [shot(0, 0, rest_known=rest_known), absent, shot(2, 1)], [2, 0]
    found = values_of(learn(Lesson(shots, torch.tensor(rows), torch.tensor([True, True])), ridge=0.05, doubt=0.1))
    best = cheapest(shots, rows)
    assert priced(found, shots, rows) == pytest.approx(priced(best, shots, rows), rel=1e-3)
    np.testing.assert_allclose(found, best, atol=0.02)


def values_of(sight: LearnedSight) -> np.ndarray:
    return torch.cat([sight.weights.flatten() / 10, sight.offsets, sight.trust - 1]).double().numpy()


def priced(values: np.ndarray, shots: list[Shot], rows: list[int]) -> float:
    return loss_of(values, shots, rows, ridge=0.05, doubt=0.1)


def cheapest(shots: list[Shot], rows: list[int]) -> np.ndarray:
    start = np.zeros(len(rows) * (shots[0].view.features.shape[0] + 2))
    return minimize(priced, start, (shots, rows), method="L-BFGS-B", options={"maxfun": 20_000}).x


@pytest.mark.parametrize("alike", [0.0, 0.6, 1.5])
def test_of_what_is_learned_the_share_is_kept_that_other_shots_bear_out(alike: float) -> None:
    """By another library's optimum of each half, cell by cell, from things more or less alike in all shots.

    Of label 0 there are four shots, of label 1 one, which teaches in both halves and judges in none.
    """

    def seen(seed: int, label: int) -> Shot:
        known, drawn = shot(seed, label), torch.Generator().manual_seed(seed)
        known = replace(known, share=(torch.rand(3, 4, generator=drawn) > 0.6).float())
        pull = torch.zeros(5, 3, 4)
        pull[1 + label] = alike * known.inside
        features = functional.normalize(known.view.features + pull, dim=0)
        return replace(known, view=replace(known.view, features=features))

    shots, rows = [seen(0, 0), seen(1, 1), seen(2, 0), seen(3, 0), seen(4, 0)], [2, 0]
    paid = []
    for judges, teachers in (((0, 3), (1, 2, 4)), ((2, 4), (0, 1, 3))):
        values = cheapest([shots[number] for number in teachers], rows)
        for judge in judges:
            paid.append([loss_of(share * values, [shots[judge]], rows, ridge=0, doubt=0) for share in SHARES])
    share = share_borne_out(torch.tensor(paid))
    learned = values_of(learn(Lesson(shots, torch.tensor(rows), torch.tensor([True, True])), ridge=0.05, doubt=0.1))
    np.testing.assert_allclose(learned, share * cheapest(shots, rows), atol=0.03)
    assert share == {0.0: 0.35, 0.6: 0.5, 1.5: 0.85}[alike]


def test_the_largest_share_within_an_error_of_the_best_is_kept() -> None:
    """The third costs least, 1 a shot; the second .5 more with an error of 0, or 1 more with one of 1.41."""
    rest = [9.0] * (len(SHARES) - 3)
    sure, unsure = [[3, 1.5, 1, *rest]] * 2, [[9, 4.0, 1, *rest], [9, 0.0, 1, *rest]]
    assert share_borne_out(torch.tensor(sure)) == SHARES[2]
    assert share_borne_out(torch.tensor(unsure)) == SHARES[1]


def test_of_many_labels_with_one_picture_each_less_is_kept() -> None:
    """Twenty labels keep all that is learned of them, forty the half, at the least price."""
    for count, share in ((20, 1.0), (40, 0.5)):
        features = functional.normalize(torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(count)), dim=0)
        seen = View(features, torch.zeros(count, 3, 4), torch.zeros(3, 3, 4))
        shots = [Shot(seen, label, (torch.arange(12).view(3, 4) == label % 12).float()) for label in range(count)]
        everything = Lesson(shots, torch.arange(count), torch.ones(count, dtype=torch.bool))
        found = values_of(learn(everything, ridge=0.05, doubt=0.1))
        cost = [priced(part * found, shots, list(range(count))) for part in (0.9 / share, 1 / share, 1.1 / share)]
        assert cost[1] < min(cost[0], cost[2])


def test_halves_take_turns_and_what_shows_nothing_is_in_both() -> None:
    labels, shown = [0, 0, 1, 0, 2, 2, 1], [True, True, True, True, True, False, True]
    assert halves_of(labels, shown).tolist() == [0, 1, 0, 0, -1, -1, 1]


def test_words_that_the_shots_contradict_lose_their_say() -> None:
    seen = [view(seed) for seed in range(6)]
    inside = [each.features[0] > 0 for each in seen]
    right = [torch.stack([4 * mask.float(), 4 * (~mask).float(), torch.zeros(3, 4)]) for mask in inside]
    for text, low, high in ((right, 1.0, 2.0), ([-each for each in right], -1.0, 0.4)):
        shots = [
            Shot(View(each.features, words, each.colours), 0, mask.float())
            for each, words, mask in zip(seen, text, inside, strict=True)
        ]
        (trust,) = learn(Lesson(shots, torch.tensor([0]), torch.tensor([True]))).trust.tolist()
        assert low < trust < high


def test_a_label_without_a_name_is_known_by_sight_alone() -> None:
    """Its words may say anything; trust is 0 and what was learned does not depend on them."""
    taught = []
    for scale in (1.0, 100.0):
        shots = []
        for seed in range(3):
            each = shot(seed, 0)
            text = each.view.text.clone()
            text[1] *= scale
            shots.append(Shot(View(each.view.features, text, each.view.colours), 0, each.share))
        taught.append(learn(Lesson(shots, torch.tensor([1]), torch.tensor([False]))))
    assert taught[0].trust.tolist() == taught[1].trust.tolist() == [0]
    torch.testing.assert_close(taught[0].weights, taught[1].weights, atol=1e-4, rtol=0)


def test_the_logit_is_trust_times_words_plus_a_dot_product() -> None:
    found = learn(Lesson([shot(0, 0)], torch.tensor([1]), torch.tensor([True])))
    seen = view(7)
    trust, evidence = found(seen)
    for row in range(3):
        for column in range(4):
            by_hand = float(found.weights[0] @ seen.features[:, row, column] + found.offsets[0])
            assert float(evidence[0, row, column]) == pytest.approx(by_hand, abs=1e-5)
    assert trust.shape == (1,)


def test_pictures_that_do_not_show_it_count_against_it() -> None:
    lesson = [shot(0, 0), shot(1, 0)]
    plain = learn(Lesson(lesson, torch.tensor([0]), torch.tensor([True])))
    other = Shot(lesson[0].view, 0, torch.zeros(3, 4))
    warned = learn(Lesson([*lesson, other], torch.tensor([0]), torch.tensor([True])))
    seen, chances = lesson[0].view, []
    for trust, evidence in (plain(seen), warned(seen)):
        changed = seen.text.index_copy(0, torch.tensor([0]), trust[:, None, None] * seen.text[:1] + evidence)
        chances.append(float(changed.softmax(0)[0].mean()))
    assert chances[1] < chances[0] - 0.1


def test_where_the_rest_of_a_picture_is_unknown_it_counts_neither_way() -> None:
    """Cells of which nothing is known may look like anything: what is learned stays the same."""
    known = shot(0, 0, rest_known=False)
    changed = known.view.features.clone()
    changed[:, known.share == 0] = functional.normalize(torch.rand(5, int((known.share == 0).sum())), dim=0)
    other = replace(known, view=replace(known.view, features=changed))
    lessons = [Lesson([each], torch.tensor([0]), torch.tensor([True])) for each in (known, other)]
    assert torch.equal(learn(lessons[0]).weights, learn(lessons[1]).weights)
    (reference,) = references_of([other])
    assert bool(reference.inside.all()) and len(reference.codes) == int(known.share.sum())
    assert cells_of([other], inside=False).shape == (0, 5)


def test_it_learns_inside_inference_mode_and_the_same_each_time() -> None:
    lesson = Lesson([shot(0, 0)], torch.tensor([0]), torch.tensor([True]))
    with torch.inference_mode():
        first = learn(lesson)
    assert torch.equal(first.weights, learn(lesson).weights)


def test_a_thing_smaller_than_a_cell_takes_the_cell_that_shows_most_of_it() -> None:
    share = torch.zeros(3, 4)
    share[1, 2], share[1, 3] = 0.3, 0.1
    assert Shot(view(0), 0, share).inside.nonzero().tolist() == [[1, 2]]
    assert not Shot(view(0), 0, torch.zeros(3, 4)).inside.any()


def test_positions_are_spread_evenly() -> None:
    assert spread_out(4, 10).tolist() == [0, 1, 2, 3]
    assert spread_out(9, 3).tolist() == [0, 4, 8]


def test_unknown_methods_and_rules_are_refused_by_name() -> None:
    lesson = Lesson([shot(0, 0)], torch.tensor([0]), torch.tensor([True]))
    with pytest.raises(ConfigError, match=r"unknown method for examples 'learnt'.*learned"):
        teach(lesson, method="learnt")
    with pytest.raises(ConfigError, match=r"unknown fusion of words and sight 'growin'.*growing"):
        teach(lesson, method="mean", fusion="growin")


def test_shares_of_another_grid_are_refused() -> None:
    with pytest.raises(ShapeError, match="share"):
        Shot(view(0), 0, torch.zeros(4, 4))


def test_a_small_thing_counts_as_much_as_its_surroundings() -> None:
    """The surroundings twice as large and the same: nothing else is learned."""
    generator = torch.Generator().manual_seed(3)
    features = functional.normalize(torch.randn(5, 1, 4, generator=generator), dim=0)
    text, share = torch.randn(3, 1, 4, generator=generator), torch.tensor([[1.0, 0, 0, 0]])
    found = []
    for order in ([0, 1, 2, 3], [0, 1, 1, 2, 2, 3, 3]):
        seen = View(features[:, :, order], text[:, :, order], torch.zeros(3, 1, len(order)))
        found.append(learn(Lesson([Shot(seen, 0, share[:, order])], torch.tensor([1]), torch.tensor([True]))))
    torch.testing.assert_close(found[0].weights, found[1].weights, atol=0.02, rtol=0)
    torch.testing.assert_close(found[0].trust, found[1].trust, atol=1e-3, rtol=0)
