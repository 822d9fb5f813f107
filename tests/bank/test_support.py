from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg.bank import BankOptions, ImageBank
from ovseg.bank.support import SupportedSegmenter, support_vectors
from ovseg.errors import DatasetError
from ovseg.pipeline.segmenter import Segmenter


@pytest.fixture(scope="module")
def region_bank(photos: Path, segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> ImageBank:
    out = tmp_path_factory.mktemp("regions") / "bank"
    return ImageBank.build(photos, out=out, segmenter=segmenter, options=BankOptions(regions=4))


def test_support_is_the_unit_mean_of_the_nearest_regions(region_bank: ImageBank) -> None:
    index, owners = region_bank.regions
    assert len(index) == len(owners)
    queries = np.ascontiguousarray(index.vectors[:5])
    for query, support in zip(queries, support_vectors(queries, index, neighbours=3), strict=True):
        nearest = np.argsort(-(index.vectors @ query), kind="stable")[:3]
        mean = index.vectors[nearest].mean(0)
        assert support @ mean / np.linalg.norm(mean) > 0.999


def test_no_share_leaves_the_features_alone_and_half_mixes(
    region_bank: ImageBank, segmenter: Segmenter, photos: Path
) -> None:
    photo = next(photos.glob("00-*"))
    own = segmenter.encode(photo).features.values
    assert torch.equal(SupportedSegmenter(segmenter, region_bank, share=0.0).encode(photo).features.values, own)
    all_support = SupportedSegmenter(segmenter, region_bank, share=1.0).encode(photo).features.values
    half = SupportedSegmenter(segmenter, region_bank).encode(photo).features.values
    torch.testing.assert_close(half, (own + all_support) / 2)


def test_it_segments_and_says_so(region_bank: ImageBank, segmenter: Segmenter, photos: Path) -> None:
    supported = SupportedSegmenter(segmenter, region_bank)
    result = supported.segment(next(photos.glob("00-*")), ["red", "green"], background=["grey"])
    assert result.area("red") > 0.03
    assert "support" in result.provenance


def test_the_constants_of_a_benchmark_keep_the_support(
    region_bank: ImageBank, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    supported = SupportedSegmenter(segmenter, region_bank, share=0.25)
    assert supported.for_benchmark("nothing of its own") is supported
    sharper = segmenter.config.model_copy(update={"logit_scale": 40.0})
    monkeypatch.setattr("ovseg.pipeline.segmenter.for_benchmark", lambda config, name: sharper)
    changed = supported.for_benchmark("camvid11")
    assert changed.info == {**supported.info, "constants": "camvid11"}
    assert (changed.config.logit_scale, changed.share) == (40.0, 0.25)


def test_a_bank_without_regions_is_refused(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    bank = ImageBank.build(photos, out=tmp_path / "b", segmenter=segmenter, options=BankOptions(regions=0))
    with pytest.raises(DatasetError, match="no regions"):
        SupportedSegmenter(segmenter, bank)
