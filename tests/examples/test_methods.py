from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional

from ovseg.examples import MeanSight, Shot, Sight, View, teach
from ovseg.examples.shot import Lesson


def view(seed: int) -> View:
    generator = torch.Generator().manual_seed(seed)
    features = functional.normalize(torch.randn(6, 4, 5, generator=generator), dim=0)
    return View(features, torch.randn(4, 4, 5, generator=generator), torch.rand(3, 4, 5, generator=generator))


def shots(label: int, count: int) -> list[Shot]:
    seen = [view(10 * label + number) for number in range(count)]
    return [Shot(each, label, (each.features[0] > 0).float()) for each in seen]


def test_names_are_learned_few_nameless_shots_are_matched_and_many_are_learned() -> None:
    """Three labels: with a name, without one and two shots, without one and six; each is as by its method alone."""
    each = [shots(0, 2), shots(1, 2), shots(2, 6)]
    rows, named = torch.tensor([3, 0, 2]), torch.tensor([True, False, False])
    together = Lesson([shot for label in each for shot in label], rows, named)
    trust, evidence = teach(together)(view(99))
    matched = teach(together.only(torch.tensor([1])), method="insid3", fusion="sight")(view(99))
    learned = teach(together.only(torch.tensor([0, 2])), method="learned")(view(99))
    torch.testing.assert_close(evidence[1:2], matched[1])
    torch.testing.assert_close(evidence[[0, 2]], learned[1])
    assert trust.tolist() == [float(learned[0][0]), 0, 0]


def test_what_labels_without_a_name_are_called_counts_for_nothing() -> None:
    rows, named = torch.tensor([3, 0, 2]), torch.tensor([True, False, False])

    def answer(other: float) -> tuple[torch.Tensor, torch.Tensor]:
        def renamed(seen: View) -> View:
            return replace(
                seen, text=torch.stack([seen.text[0] + other, seen.text[1], seen.text[2] - other, seen.text[3]])
            )

        given = [replace(each, view=renamed(each.view)) for each in [*shots(0, 2), *shots(1, 2), *shots(2, 6)]]
        return teach(Lesson(given, rows, named))(renamed(view(99)))

    for first, second in zip(answer(0.0), answer(5.0), strict=True):
        torch.testing.assert_close(first, second)


def test_half_of_each_of_two_counts_and_labels_that_one_knows_alone_stay() -> None:
    """By hand: three labels, of which the second method knows the first two."""

    def says(trust: list[float], evidence: list[float]) -> Sight:
        return lambda view: (torch.tensor(trust), torch.tensor(evidence)[:, None, None].expand(-1, 4, 5))

    trust, evidence = MeanSight(says([1, 0.5, 1], [2, 4, 7]), says([0, 0.5], [6, -4]))(view(0))
    assert trust.tolist() == [0.5, 0.5, 1] and evidence[:, 0, 0].tolist() == [4, 0, 7]
    assert evidence.shape == (3, 4, 5)


def test_with_names_alone_all_labels_are_learned_together() -> None:
    lesson = Lesson([*shots(0, 1), *shots(1, 1)], torch.tensor([0, 1]), torch.tensor([True, True]))
    seen = view(99)
    for first, second in zip(teach(lesson)(seen), teach(lesson, method="learned")(seen), strict=True):
        torch.testing.assert_close(first, second)


def test_a_lesson_of_some_labels_numbers_them_anew() -> None:
    lesson = Lesson([*shots(0, 1), *shots(1, 2)], torch.tensor([5, 7]), torch.tensor([True, False]))
    (only,) = [lesson.only(torch.tensor([1]))]
    assert [shot.label for shot in only.shots] == [0, 0]
    assert only.rows.tolist() == [7] and only.named.tolist() == [False]
