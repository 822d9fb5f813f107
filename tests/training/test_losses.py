from __future__ import annotations

import numpy as np
import pytest
import torch

from ovseg.training.losses import binary_loss, softmax_loss


def test_losses_equal_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, 4, generator=draw, dtype=torch.float64)
    truth = torch.randint(-2, 3, (2, 2, 4), generator=draw)
    weights, sure = torch.tensor([0.5, 1.0, 2.0]), torch.rand(2, 2, 4, generator=draw)
    softmax = [0.0, 0.0]
    binary = [0.0, 0.0]
    for image in range(2):
        for y in range(2):
            for x in range(4):
                label, certain = int(truth[image, y, x]), float(sure[image, y, x])
                row = logits[image, :, y, x].exp()
                if label >= 0:
                    softmax[0] -= float((row[label] / row.sum()).log()) * float(weights[label]) * certain
                    softmax[1] += float(weights[label]) * certain
                for phrase in range(3) if label != -1 else ():
                    chance = float(row[phrase] / (1 + row[phrase]))
                    factor = certain * (float(weights[phrase]) if phrase == label else 1.0)
                    binary[0] -= factor * float(np.log(chance if phrase == label else 1 - chance))
                    binary[1] += factor
    found = softmax_loss(logits, truth, weights=weights, confidence=sure)
    assert float(found) == pytest.approx(softmax[0] / softmax[1], rel=1e-5)
    found = binary_loss(logits, truth, weights=weights, confidence=sure)
    assert float(found) == pytest.approx(binary[0] / binary[1], rel=1e-5)
