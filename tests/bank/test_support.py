from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg.bank import BankOptions, ImageBank
from ovseg.bank.support import support_vectors
from ovseg.errors import DatasetError
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary import Concept


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


def test_no_share_leaves_the_logits_alone_and_half_is_the_mean(
    region_bank: ImageBank, segmenter: Segmenter, photos: Path
) -> None:
    encoded = segmenter.encode(next(photos.glob("00-*")))
    queries = segmenter.queries(["red", Concept("green", synonyms=("blue",))], background=["grey"])
    plain = segmenter.logits(encoded, queries).values
    none, half, whole = (
        segmenter.with_modifiers(region_bank.support(share=share)).logits(encoded, queries).values
        for share in (0.0, 0.5, 1.0)
    )
    assert torch.equal(none, plain)
    assert not torch.allclose(whole, plain, atol=0.1)
    torch.testing.assert_close(half, (plain + whole) / 2)


def test_whole_support_is_the_logits_of_the_vectors_that_support_each_region(
    region_bank: ImageBank, segmenter: Segmenter, photos: Path
) -> None:
    encoded = segmenter.encode(next(photos.glob("00-*")))
    queries = segmenter.queries(["red", "green"])
    support = region_bank.support(share=1.0, neighbours=3)
    vectors = support.supported(encoded.features)
    expected = segmenter.config.logit_scale * torch.einsum("qd,dhw->qhw", queries.embeddings, vectors)
    torch.testing.assert_close(segmenter.with_modifiers(support).logits(encoded, queries).values, expected)


def test_it_segments_and_says_so(region_bank: ImageBank, segmenter: Segmenter, photos: Path) -> None:
    supported = segmenter.with_modifiers(region_bank.support())
    result = supported.segment(next(photos.glob("00-*")), ["red", "green"], background=["grey"])
    assert result.area("red") > 0.03
    assert "support" in result.provenance


def test_the_weight_of_a_label_counts_in_full_beside_support(
    region_bank: ImageBank, segmenter: Segmenter, photos: Path
) -> None:
    encoded = segmenter.encode(next(photos.glob("00-*")))
    supported = segmenter.with_modifiers(region_bank.support(share=0.5))
    plain = supported.logits(encoded, supported.queries(["red", "green"])).values
    heavy = supported.logits(encoded, supported.queries([Concept("red", weight=3.0), "green"])).values
    torch.testing.assert_close(heavy[0] - plain[0], torch.full_like(plain[0], 3.0).log())
    assert torch.equal(heavy[1], plain[1])


def test_the_constants_of_a_benchmark_keep_the_support(
    region_bank: ImageBank, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    supported = segmenter.with_modifiers(region_bank.support(share=0.25))
    sharper = segmenter.config.model_copy(update={"logit_scale": 40.0})
    monkeypatch.setattr("ovseg.pipeline.segmenter.for_benchmark", lambda config, name, **_: sharper)
    changed = supported.for_benchmark("camvid11")
    assert changed.config.logit_scale == 40.0
    assert changed.added == supported.added
    assert changed.info["support"] == supported.info["support"]
    assert changed.info["settings"] != supported.info["settings"]


def test_a_bank_without_regions_is_refused(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    bank = ImageBank.build(photos, out=tmp_path / "b", segmenter=segmenter, options=BankOptions(regions=0))
    with pytest.raises(DatasetError, match="no regions"):
        bank.support()
