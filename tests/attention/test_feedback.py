"""ResCLIP's second pass against float64 loops with a flood fill, on a grid that is not square."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from helpers.blocks import GRID, dot, make_block, middle_weights, nearness, rows_softmax, weighted

from ovseg.attention import RECIPES
from ovseg.attention.feedback import feedback, patch_labels
from ovseg.errors import ShapeError

LABELS = torch.tensor([[0, 2, 0, 0, -1], [2, 2, 2, 2, -1], [0, -1, 0, 2, 0]])  # GRID


def reached(labels, start):
    """The places of one label that can be reached from ``start`` by steps to one of eight neighbours."""
    rows, columns = len(labels), len(labels[0])
    found, todo = {start}, [start]
    while todo:
        y, x = todo.pop()
        for place in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
            inside = 0 <= place[0] < rows and 0 <= place[1] < columns
            if inside and place not in found and labels[place[0]][place[1]] == labels[y][x]:
                found.add(place)
                todo.append(place)
    return found


def slow_feedback(labels, sigma):
    rows, columns = len(labels), len(labels[0])
    places = [(y, x) for y in range(rows) for x in range(columns)]
    table = []
    for here in places:
        own, line = reached(labels, here), []
        for there in places:
            steps = max(abs(here[0] - there[0]), abs(here[1] - there[1]))
            same = labels[here[0]][here[1]] == labels[there[0]][there[1]]
            joined = 1.0 if there in own else math.exp(-steps / (max(rows, columns) - 1))
            line.append(joined if same else 0.0)
        table.append(line)
    size = min(len(places), int(6 * sigma + 1))
    reach = (size if size % 2 else size + 1) // 2
    kernel = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(-reach, reach + 1)]
    out = []
    for line in table:
        smooth = [
            sum(
                kernel[step + reach] / sum(kernel) * line[place + step]
                for step in range(-reach, reach + 1)
                if 0 <= place + step < len(line)
            )
            for place in range(len(line))
        ]
        out.append([value / sum(smooth) for value in smooth])
    most = max(map(max, out))
    return [[value / most for value in line] for line in out]


@pytest.mark.parametrize("sigma", [0.7, 5.0])
def test_feedback_equals_the_loops(sigma):
    slow = torch.tensor(slow_feedback(LABELS.tolist(), sigma))
    torch.testing.assert_close(feedback(LABELS, sigma=sigma), slow, atol=1e-6, rtol=1e-5)


def test_parts_of_a_label_that_nothing_joins_are_damped_by_their_distance():
    found = feedback(torch.tensor([[4, 4, 1, 4, 4]]), sigma=1e-3)  # so narrow that nothing is smoothed
    row = [1, 1, 0, math.exp(-3 / 4), math.exp(-1)]
    assert found[0].tolist() == pytest.approx([value / sum(row) for value in row], abs=1e-6)
    assert found[2].tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_resclip_mixes_the_feedback_into_the_logits_of_the_last_block(prefix):
    labels = torch.stack([LABELS, LABELS.flip(1)])
    block = replace(make_block(prefix=prefix), labels=labels)
    found = RECIPES["resclip"].run(block, {"share": 0.6, "gain": 1.8, "mix": 0.3}).values
    near, count = nearness(prefix), block.q.shape[2]
    for image in range(2):
        said = slow_feedback(labels[image].tolist(), 5.0)
        for head in range(2):
            k, v = block.k[image, head], block.v[image, head]
            out = []
            for row in range(count):
                logits = []
                for column in range(count):
                    told = said[row - prefix][column - prefix] if min(row, column) >= prefix else 0.0
                    both = 0.4 * dot(k[row], k[column]) / math.sqrt(4) + 0.6 * told
                    logits.append(1.8 * both + near[row][column])
                own = rows_softmax(logits)
                middle = middle_weights(2, count)[image, head, row].tolist()
                out.append(weighted([2 * (0.7 * a + 0.3 * b) for a, b in zip(own, middle, strict=True)], v))
            torch.testing.assert_close(found[image, head].double(), torch.stack(out), atol=1e-5, rtol=1e-5)


def test_a_first_pass_is_that_of_the_middle_blocks_alone():
    block = make_block(prefix=1)
    first, alone = (RECIPES[name].run(block, {"mix": 0.4}).values for name in ("resclip", "resclip-rcs"))
    assert torch.equal(first, alone)


def test_a_patch_has_its_most_frequent_label_and_of_equals_the_smallest():
    labels = torch.randint(-1, 3, (2, 6, 8), generator=torch.Generator().manual_seed(0))
    found = patch_labels(labels, (3, 2))
    for image in range(2):
        for y in range(3):
            for x in range(2):
                counts = Counter(labels[image, 2 * y : 2 * y + 2, 4 * x : 4 * x + 4].flatten().tolist())
                assert found[image, y, x] == min(counts, key=lambda label: (-counts[label], label))


def test_labels_of_another_grid_are_refused():
    with pytest.raises(ShapeError, match=r"labels must be \(B=2, h=3, w=5\), got \(2, 5, 3\)"):
        replace(make_block(prefix=0), labels=torch.zeros(2, *reversed(GRID), dtype=torch.long))
    with pytest.raises(ShapeError, match=r"labels must be \(h, w\)"):
        feedback(torch.zeros(4, dtype=torch.long), sigma=5.0)
