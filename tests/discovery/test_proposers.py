"""Objects of an image without words, by every way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy import COLOURS, make_segmenter, paint

from ovseg.discovery import propose
from ovseg.discovery.proposers import cell_shares, object_vectors
from ovseg.errors import ConfigError, ModelError
from ovseg.images.load import load_image
from ovseg.pipeline.segmenter import Segmenter
from ovseg.proposals.proposal import Proposals


class OneBox:
    def propose(self, image: np.ndarray) -> Proposals:
        return Proposals(torch.tensor([[0.0, 0, 48, 64]]), torch.tensor([[0.8, 0.1]]))


def with_detector() -> Segmenter:
    made = make_segmenter()
    return Segmenter(replace(made.model, detector=OneBox), device=torch.device("cpu"))


@pytest.mark.parametrize("by", ["normalized_cut", "detector"])
def test_the_square_is_found_and_has_no_name(tmp_path: Path, by: str) -> None:
    photo = paint(tmp_path, "a.png", ["red"], seed=3)
    truth = load_image(photo)[..., 0] > 200
    found = propose(with_detector(), photo, by=by)
    best = max(found, key=lambda each: (each.mask() & truth).sum() / (each.mask() | truth).sum())
    assert best.label == "object"
    assert (best.mask() & truth).sum() > 0.8 * (best.mask() | truth).sum()


def test_an_encoded_image_and_its_file_give_the_same(tmp_path: Path, segmenter: Segmenter) -> None:
    photo = paint(tmp_path, "a.png", ["red", "blue"], seed=3)
    assert propose(segmenter, photo) == propose(segmenter, segmenter.encode(photo))
    assert len(propose(segmenter, photo, most=1)) == 1


def test_copies_and_what_is_tiny_or_nearly_all_are_left_out(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = torch.zeros(5, 72, 96, dtype=torch.bool)
    masks[0, 10:40, 10:40] = True
    masks[1, 10:40, 10:41] = True  # a surer copy of the first
    masks[2, :2, :2] = True
    masks[3, :, :] = True
    masks[4, 50:60, 50:70] = True
    ways = {"fixed": lambda *_: zip(masks, [0.5, 0.6, 0.9, 0.9, 0.7], strict=True)}
    monkeypatch.setattr("ovseg.discovery.proposers.PROPOSERS", ways)
    found = propose(segmenter, paint(tmp_path, "a.png", ["red"], seed=3), by="fixed")
    assert [(each.score, each.box) for each in found] == [(0.7, (50, 50, 70, 60)), (0.6, (10, 10, 41, 40))]


def test_an_objects_vector_is_the_unit_mean_of_its_cells(tmp_path: Path, segmenter: Segmenter) -> None:
    photo = paint(tmp_path, "a.png", ["red"], seed=3)
    encoded = segmenter.encode(photo)
    (first, *_) = found = propose(segmenter, encoded)
    maps = encoded.unpadded(encoded.features.values[0])
    rows, columns = maps.shape[1:]
    shares = cell_shares(first.mask(), (rows, columns))
    total = sum(shares[y, x] * maps[:, y, x] for y in range(rows) for x in range(columns))
    vectors = object_vectors(encoded, found)
    torch.testing.assert_close(vectors[0], total / total.norm(), atol=1e-5, rtol=0)
    assert int(vectors[0].argmax()) == list(COLOURS).index("red")
    assert object_vectors(encoded, ()).shape == (0, 7)


def test_what_cannot_be_asked_is_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    photo = paint(tmp_path, "a.png", ["red"], seed=3)
    with pytest.raises(ConfigError, match=r"unknown way to propose objects 'sams'; did you mean 'sam'\?"):
        propose(segmenter, photo, by="sams")
    with pytest.raises(ModelError, match="model 'toy' has no detector"):
        propose(segmenter, photo, by="detector")
    with pytest.raises(ConfigError, match="most must be at least 1, got 0"):
        propose(segmenter, photo, most=0)
