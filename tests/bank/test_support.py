import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy import ToyEncoder, make_segmenter

from ovseg.bank import BankOptions, ImageBank
from ovseg.bank.support import support_vectors
from ovseg.bank.vectors import describe_regions, region_keys
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError, DatasetError
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
    for query, support in zip(queries, support_vectors(queries, index, index.vectors, neighbours=3), strict=True):
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


class TwoEncoders(ToyEncoder):
    """The toy's colours, and beside them a second encoder that sees nothing but how bright cells are."""

    def dense(self, pixels: torch.Tensor) -> DenseFeatures:
        bright = torch.nn.functional.avg_pool2d(pixels, 8).mean(1, keepdim=True)
        seen = torch.nn.functional.normalize(torch.cat([bright, 1 - bright], 1), dim=1)
        return replace(super().dense(pixels), structure=seen)


class OneEncoder(ToyEncoder):
    """The toy's colours alone."""

    def dense(self, pixels: torch.Tensor) -> DenseFeatures:
        return replace(super().dense(pixels), structure=None)


def of_encoder(encoder: ToyEncoder) -> Segmenter:
    plain = make_segmenter()
    return Segmenter(replace(plain.model, image=encoder), device=plain.device)


@pytest.fixture(scope="module")
def keyed_bank(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageBank:
    out = tmp_path_factory.mktemp("keyed") / "bank"
    options = BankOptions(regions=4, keys="structure", shard_size=5)
    return ImageBank.build(photos, out=out, segmenter=of_encoder(TwoEncoders()), options=options)


def test_regions_are_found_by_the_second_encoder_and_give_the_joint_features(
    keyed_bank: ImageBank, photos: Path
) -> None:
    features = of_encoder(TwoEncoders()).encode(next(photos.glob("02-*"))).features
    support = keyed_bank.support(neighbours=3, regions=5)
    assert support.keys is not None and support.keys.vectors.shape == (len(support.index), 2)
    assert features.structure is not None
    owner, _ = describe_regions(features, 5)
    keys, values = support.keys.vectors.astype(float), support.index.vectors.astype(float)
    found, compared = support.supported(features).flatten(1).T.double(), 0
    for region in owner.unique().tolist():
        cells = features.structure[0].flatten(1).T[owner == region].double().numpy()
        key = cells.mean(0) / np.linalg.norm(cells.mean(0))
        nearest = sorted(range(len(keys)), key=lambda row: -float(keys[row] @ key))
        mean = values[nearest[:3]].mean(0)
        if keys[nearest[2]] @ key - keys[nearest[3]] @ key > 1e-6:  # not a tie
            compared += 1
            for answer in found[owner == region].numpy():
                np.testing.assert_allclose(answer, mean / np.linalg.norm(mean), atol=1e-5)
    assert compared > 1


def test_keys_belong_to_the_regions_beside_them(keyed_bank: ImageBank) -> None:
    segmenter, row = of_encoder(TwoEncoders()), 3
    features = segmenter.encode(keyed_bank.paths[row]).features
    owner, means = describe_regions(features, 4)
    support, (index, owners) = keyed_bank.support(), keyed_bank.regions
    assert support.keys is not None
    own = owners == row
    np.testing.assert_allclose(index.vectors[own], means.numpy(), atol=1e-5)
    np.testing.assert_allclose(support.keys.vectors[own], region_keys(features, owner).numpy(), atol=1e-5)


def test_half_the_support_is_mixed_in_and_the_keys_are_part_of_what_a_result_is_known_by(
    keyed_bank: ImageBank, photos: Path
) -> None:
    segmenter = of_encoder(TwoEncoders())
    encoded, queries = segmenter.encode(next(photos.glob("00-*"))), segmenter.queries(["red", "green"])
    support = keyed_bank.support()
    assert (support.neighbours, support.share) == (20, 0.5)
    plain = segmenter.logits(encoded, queries).values
    borrowed = torch.einsum("qd,dhw->qhw", queries.embeddings, support.supported(encoded.features)) * 20
    mixed = segmenter.with_modifiers(support).logits(encoded, queries).values
    torch.testing.assert_close(mixed, (plain + borrowed[: len(plain)]) / 2, atol=1e-4, rtol=1e-4)
    assert "+" in support.info["support"]


def has_keys(bank: ImageBank) -> bool:
    """Whether every region has a key."""
    keys = bank.support().keys
    assert keys is not None
    return len(keys) == len(bank.regions[1]) and bool((np.linalg.norm(keys.vectors, axis=1) > 0.99).all())


def test_a_bank_with_keys_grows_shrinks_and_is_merged_with_them(
    keyed_bank: ImageBank, photos: Path, tmp_path: Path
) -> None:
    segmenter = of_encoder(TwoEncoders())
    copied = shutil.copytree(photos, tmp_path / "photos")
    options = BankOptions(regions=4, keys="structure")
    some = ImageBank.build(copied / "0[0-4]*", out=tmp_path / "some", segmenter=segmenter, options=options)
    moved = copied / "moved.png"
    next(copied.glob("01-*")).rename(moved)
    grown = some.add(str(copied))
    assert len(grown) == 24 and str(moved) in grown.paths and has_keys(grown)
    fewer = grown.remove([moved])
    assert has_keys(fewer)
    both = ImageBank.merge([fewer.root, keyed_bank.root], out=tmp_path / "both")
    assert has_keys(ImageBank.open(both.root, segmenter=segmenter, verify=True))
    plain = ImageBank.build(copied, out=tmp_path / "plain", segmenter=segmenter, options=BankOptions(regions=4))
    assert plain.support().keys is None
    with pytest.raises(DatasetError, match="merge needs banks with keys of one kind, got joint and structure"):
        ImageBank.merge([plain.root, keyed_bank.root], out=tmp_path / "mixed")


def test_keys_that_cannot_be_made_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keys must be one of joint, structure, the second only with regions"):
        BankOptions(regions=0, keys="structure")
    options = BankOptions(regions=4, keys="structure")
    with pytest.raises(ConfigError, match="need a second encoder on the grid of the features"):
        ImageBank.build(photos, out=tmp_path / "bank", segmenter=of_encoder(OneEncoder()), options=options)
    segmenter = of_encoder(TwoEncoders())
    ImageBank.build(photos, out=tmp_path / "joint", segmenter=segmenter, options=BankOptions(regions=4))
    with pytest.raises(ConfigError, match="was built with keys joint, got keys structure"):
        ImageBank.build(photos, out=tmp_path / "joint", segmenter=segmenter, options=options)
