"""Objects of an image without words, by every way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import saved_sam
from helpers.mask_models import written
from helpers.toy import COLOURS, make_segmenter, paint
from helpers.universal_models import universal_files
from safetensors.torch import load_file, save_file

from ovseg.discovery import propose
from ovseg.discovery.found import find_objects
from ovseg.discovery.proposers import cell_shares, object_vectors, way_mark
from ovseg.errors import ConfigError, ModelError
from ovseg.files import sha256_of
from ovseg.images.load import load_image
from ovseg.pipeline.segmenter import Segmenter
from ovseg.proposals.proposal import Proposals
from ovseg.proposals.universal import load_universal, universal_masks


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


def test_a_network_after_a_colon_draws_the_objects_and_decides_what_a_folder_holds(
    tmp_path: Path, segmenter: Segmenter
) -> None:
    (tmp_path / "eomt").mkdir()
    network = written(universal_files("eomt"), tmp_path / "eomt")
    photo = paint(tmp_path, "a.png", ["red"], seed=3)
    by = f"universal:{network}"
    pixels = torch.from_numpy(load_image(photo))
    masks = dict((round(score, 6), mask) for mask, score in universal_masks(pixels, model=str(network)))
    found = propose(segmenter, photo, by=by)
    assert found and all(np.array_equal(each.mask(), masks[round(each.score, 6)]) for each in found)
    assert way_mark(by) == sha256_of(network / "model.safetensors")[:16] and way_mark("sam") == ""
    find_objects(photo.parent, tmp_path / "out", segmenter=segmenter, by=by)
    load_universal.cache_clear()
    other = load_file(network / "model.safetensors")
    save_file({name: value + 1 for name, value in other.items()}, network / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"weights.*choose another folder, or delete this one"):
        find_objects(photo.parent, tmp_path / "out", segmenter=segmenter, by=by)


def test_another_sam_may_stand_after_a_colon(tmp_path: Path, segmenter: Segmenter) -> None:
    photo = paint(tmp_path, "a.png", ["red"], seed=3)
    (tmp_path / "sam").mkdir()
    saved_sam(tmp_path / "sam")
    assert len(way_mark(f"sam:{tmp_path / 'sam'}")) == 16
    with pytest.raises(ModelError, match="expected mobile-sam, a repository on the hub or a folder"):
        propose(segmenter, photo, by="sam:/no/such/folder")


def test_what_cannot_be_asked_is_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    photo = paint(tmp_path, "a.png", ["red"], seed=3)
    with pytest.raises(ConfigError, match=r"unknown way to propose objects 'sams'; did you mean 'sam'\?"):
        propose(segmenter, photo, by="sams")
    with pytest.raises(ConfigError, match="expected universal:MODEL, got 'universal'; give a repository"):
        propose(segmenter, photo, by="universal")
    with pytest.raises(ConfigError, match="sam and universal take a model after a colon, got 'detector:x'"):
        propose(segmenter, photo, by="detector:x")
    with pytest.raises(ModelError, match="model 'toy' has no detector"):
        propose(segmenter, photo, by="detector")
    with pytest.raises(ConfigError, match="most must be at least 1, got 0"):
        propose(segmenter, photo, most=0)
