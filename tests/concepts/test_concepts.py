from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ovseg.bank import ImageBank
from ovseg.concepts import ConceptSet, learn_concepts
from ovseg.concepts.concept_set import merge_concepts
from ovseg.concepts.evidence import STRENGTH, feature_maps
from ovseg.concepts.learn import cluster
from ovseg.concepts.look import over_regions
from ovseg.concepts.options import LearnOptions
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ModelError, SpaceError, VocabularyError
from ovseg.examples.calibrate import calibrate, separation
from ovseg.heads.base import IdentityHead
from ovseg.models.sections import PruneConfig
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Concept


@pytest.fixture(scope="module")
def learned(bank: ImageBank) -> ConceptSet:
    return learn_concepts(["red", "blue", "zebra"], bank, k=7, options=LearnOptions(negatives=8))


def test_the_reference_is_the_colour(learned: ConceptSet) -> None:
    for name, channel in (("red", 0), ("blue", 2)):
        concept = learned[name]
        assert concept.found
        assert int(concept.embeddings.sum(0).argmax()) == channel
        assert concept.confidence > 0.5


def test_a_concept_nobody_photographed_is_not_found(learned: ConceptSet) -> None:
    assert not learned["zebra"].found
    assert learned["zebra"].purity == 0


def test_seeds_lie_on_the_object(learned: ConceptSet, bank: ImageBank) -> None:
    for seed in learned["red"].seeds:
        pixels = bank.image(bank.paths.index(seed.path))
        height, width = pixels.shape[:2]
        red, green, blue = pixels[int(seed.row * height), int(seed.column * width)].astype(int)
        assert red > green + 40
        assert red > blue + 40


def test_a_file_brings_the_same_concepts_back(learned: ConceptSet, tmp_path: Path) -> None:
    path = learned.save(tmp_path / "c.safetensors")
    loaded = ConceptSet.load(path)
    assert loaded.digest == learned.digest
    assert loaded["red"].seeds == learned["red"].seeds
    assert torch.equal(loaded["red"].embeddings, learned["red"].embeddings)
    assert path.stat().st_size < 20_000


def test_wrong_files_and_names_are_refused(learned: ConceptSet, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no concepts file"):
        ConceptSet.load(tmp_path / "none.safetensors")
    path = learned.save(tmp_path / "c.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="whole safetensors"):
        ConceptSet.load(path)
    with pytest.raises(VocabularyError, match="did you mean 'red'"):
        learned["rad"]


def test_concepts_of_another_model_are_refused(learned: ConceptSet, segmenter: Segmenter) -> None:
    other = ConceptSet(learned.references, learned.space, learned.features, {**learned.encoder, "weights": "x"})
    with pytest.raises(SpaceError, match="weights 'x', got 'image-toy-weights'"):
        segmenter.with_concepts(other)
    with pytest.raises(SpaceError):
        merge_concepts([learned, other])
    assert merge_concepts([learned, learned]).names == learned.names


@pytest.mark.parametrize("smoothing", [None, 0.2])
def test_evidence_adds_to_the_text_logit_of_its_label_only(
    learned: ConceptSet, segmenter: Segmenter, photos: Path, smoothing: float | None
) -> None:
    config = segmenter.config.model_copy(update={"smoothing": smoothing})
    plain = Segmenter(replace(segmenter.model, config=config), device=segmenter.device)
    told = plain.with_concepts(learned)
    encoded = plain.encode(photos / "00-red-green.png")
    queries = plain.queries(["green", "red", "zebra"])
    before, after = plain.logits(encoded, queries), told.logits(encoded, queries)
    evidence = learned["red"].evidence(feature_maps(encoded.features, learned.features))
    expected = before.values.clone()
    expected[1] += STRENGTH * learned["red"].confidence * before.smooth(evidence[None])[0]
    torch.testing.assert_close(after.values, expected)
    assert torch.equal(after.values[2], before.values[2])  # a zebra was not found: the text alone


def test_learned_and_plain_labels_mix(learned: ConceptSet, segmenter: Segmenter, photos: Path) -> None:
    with_concepts = segmenter.with_concepts(learned)
    photo = photos / "00-red-green.png"
    result = with_concepts.segment(photo, ["red", "green"], background=["grey"])
    assert result.labels == ("red", "green")
    assert result.area("red") > 0.04
    assert with_concepts.segment(photo, None).labels == ("red", "blue", "zebra")
    again = with_concepts.segment(segmenter.encode(photo), ["red", "green"], background=["grey"])
    assert np.array_equal(again.index_map, result.index_map)
    assert result.provenance["concepts"] == learned.digest


def test_constants_of_a_benchmark_reach_the_model_below(
    learned: ConceptSet, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_concepts = segmenter.with_concepts(learned)
    sharper = segmenter.config.model_copy(update={"logit_scale": 40.0})
    monkeypatch.setattr("ovseg.pipeline.segmenter.for_benchmark", lambda config, name, **_: sharper)
    forwarded = with_concepts.for_benchmark("camvid11")
    assert forwarded.added == with_concepts.added
    assert (forwarded.config.logit_scale, forwarded.benchmark) == (40.0, "camvid11")
    assert forwarded.queries(["red"]).logit_scale == 40.0
    assert forwarded.info["constants"] == "camvid11"


def test_a_stream_without_labels_looks_for_the_concepts(
    learned: ConceptSet, segmenter: Segmenter, photos: Path
) -> None:
    with_concepts = segmenter.with_concepts(learned)
    paths = sorted(photos.iterdir())[:3]
    for path, result in zip(paths, with_concepts.segment_batch(paths), strict=True):
        assert np.array_equal(result.index_map, with_concepts.segment(path).index_map)
        assert result.labels == learned.names


def test_more_concepts_join_those_there_are(learned: ConceptSet, segmenter: Segmenter, bank: ImageBank) -> None:
    more = learn_concepts(["green"], bank, k=7)
    both = segmenter.with_concepts(learned).with_concepts(more)
    assert both.queries().vocabulary.labels == ("red", "blue", "zebra", "green")
    assert both.info["concepts"] != segmenter.with_concepts(learned).info["concepts"]


def test_what_was_added_before_the_concepts_stays_and_is_told(
    learned: ConceptSet, segmenter: Segmenter, bank: ImageBank
) -> None:
    both = segmenter.with_modifiers(bank.support()).with_concepts(learned)
    assert {"support", "concepts"} <= set(both.info)
    assert {"support", "concepts"} <= set(both.with_concepts(learned).info)


def test_a_head_that_fuses_is_refused(learned: ConceptSet, segmenter: Segmenter) -> None:
    class Fusing(IdentityHead):
        def fuse(self, pixels: DenseFeatures, phrases: torch.Tensor) -> DenseFeatures:
            return pixels

    fused = Segmenter(replace(segmenter.model, head=Fusing(segmenter.model.head.space)), device=segmenter.device)
    with pytest.raises(SpaceError, match="whose head fuses"):
        fused.with_concepts(learned)


def test_a_label_that_was_learned_is_not_pruned_by_its_text(learned: ConceptSet, segmenter: Segmenter) -> None:
    image = np.full((64, 64, 3), (220, 30, 30), np.uint8)
    encoded = replace(segmenter.encode(image), vector=functional.normalize(torch.arange(7.0), dim=0))
    config = segmenter.config.model_copy(update={"prune": PruneConfig(percentile=100, least=1)})
    pruning = Segmenter(replace(segmenter.model, config=config), device=segmenter.device)
    labels = ["red", "green", "zebra"]
    gone = pruning.logits(encoded, pruning.queries(labels)).values.amax((1, 2)).isinf()
    assert gone.tolist() == [True, True, False]  # the vector of the whole image points at things without a colour
    told = pruning.with_concepts(learned)
    assert told.logits(encoded, told.queries(labels)).values.amax((1, 2)).isinf().tolist() == [False, True, False]


def test_a_context_is_learned_first_and_is_returned_as_itself(bank: ImageBank) -> None:
    concepts = learn_concepts(["white", "yellow"], bank, k=6, contexts=["white"])
    assert concepts.contexts == ("white",)
    assert int(concepts["yellow"].embeddings.sum(0).argmax()) == 3


def test_a_context_counts_less_as_a_match(bank: ImageBank) -> None:
    """A cell unlike the context keeps 1 − sigmoid(0) = a half of its weight, and so of the support it gives."""
    alone = learn_concepts(["yellow"], bank, k=6)["yellow"]
    beside = learn_concepts(["yellow"], bank, k=6, contexts=["white"])["yellow"]
    assert np.mean([seed.support for seed in alone.seeds]) > 0.7
    ratios = [
        other.support / seed.support
        for seed in alone.seeds
        for other in beside.seeds
        if (other.path, other.row, other.column) == (seed.path, seed.row, seed.column)
    ]
    assert len(ratios) >= 3
    assert ratios == pytest.approx([0.5] * len(ratios), abs=0.05)


def test_negative_examples_are_kept_away(bank: ImageBank) -> None:
    concepts = learn_concepts([Concept("red", not_=("green",))], bank, k=4)
    assert not any("green" in Path(seed.path).name for seed in concepts["red"].seeds)


def test_the_picture_shows_every_concept(learned: ConceptSet, segmenter: Segmenter) -> None:
    picture = learned.show(segmenter, images=4, side=60)
    assert picture.width >= 4 * 60
    assert picture.height >= 3 * 60


def test_cells_of_a_region_share_its_mean_probability() -> None:
    maps = torch.zeros(3, 2, 3)
    maps[0, :, :2] = 1  # four cells of one kind
    maps[1, 0, 2] = maps[2, 1, 2] = 1  # and two of their own
    probability = torch.tensor([[1.0, 0.0, 0.3], [0.6, 0.8, 0.9]])
    expected = torch.tensor([[0.6, 0.6, 0.3], [0.6, 0.6, 0.9]])
    torch.testing.assert_close(over_regions(probability, maps, parts=3), expected)
    torch.testing.assert_close(over_regions(probability, maps, parts=1), torch.full((2, 3), 0.6))


def test_two_clusters_become_two_references_and_one_stays_one() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(20, 8, generator=generator)
    directions = torch.eye(8)[[0] * 12 + [1] * 8]
    references, members = cluster(functional.normalize(directions + noise, dim=1), most=3, gain=0.06, least=3)
    assert len(references) == 2
    assert len(set(members[:12].tolist())) == len(set(members[12:].tolist())) == 1
    same = functional.normalize(torch.eye(8)[[0] * 20] + noise, dim=1)
    assert len(cluster(same, most=3, gain=0.06, least=3)[0]) == 1


def test_the_threshold_parts_two_heaps() -> None:
    inside, outside = torch.tensor([0.7, 0.8, 0.9]), torch.tensor([0.1, 0.2, 0.3])
    threshold, spread, parted = calibrate(inside, outside)
    assert threshold == pytest.approx(0.5)
    assert spread == pytest.approx(0.02 / 3 / 0.6)  # variance over the distance of the means
    assert parted == 1


def test_evidence_is_the_logarithm_of_the_ratio_of_the_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    inside = 0.6 + 0.1 * torch.randn(20_000, generator=generator)
    outside = 0.3 + 0.1 * torch.randn(20_000, generator=generator)
    threshold, spread, parted = calibrate(inside, outside)
    for cosine in (0.35, 0.45, 0.6):
        densities = [torch.distributions.Normal(mean, 0.1).log_prob(torch.tensor(cosine)) for mean in (0.6, 0.3)]
        assert (cosine - threshold) / spread == pytest.approx(float(densities[0] - densities[1]), abs=0.15)
    assert parted == pytest.approx(0.866, abs=0.02)  # 2 Φ(1.5) − 1


def test_separation_equals_trying_every_threshold() -> None:
    generator = torch.Generator().manual_seed(1)
    inside, outside = torch.rand(30, generator=generator) + 0.3, torch.rand(50, generator=generator)
    tried = [
        float((inside >= value).float().mean() - (outside >= value).float().mean())
        for value in torch.cat([inside, outside])
    ]
    assert separation(inside, outside) == pytest.approx(max(tried), abs=0.02)


def test_a_concept_that_nothing_is_like_has_no_separation_and_finite_evidence() -> None:
    same = torch.full((10,), 0.4)
    threshold, spread, parted = calibrate(same, same)
    assert (threshold, parted) == (pytest.approx(0.4), pytest.approx(0, abs=0.01))
    assert spread > 0
    assert calibrate(same, torch.empty(0))[0] == pytest.approx(0.3)


def test_an_unusable_bank_or_k_is_refused(bank: ImageBank) -> None:
    with pytest.raises(VocabularyError, match="k must be at least 2"):
        learn_concepts(["red"], bank, k=1)
    with pytest.raises(VocabularyError, match="at least one label"):
        learn_concepts([], bank)


def test_a_concept_is_not_learned_by_the_name_of_a_file(bank: ImageBank) -> None:
    for names, contexts in (
        (["photos/red.png"], ()),
        ([Concept("red", synonyms=("a.jpg",))], ()),
        (["red"], ["b.png"]),
    ):
        with pytest.raises(
            VocabularyError, match=r"the name of a concept must be words, got '.*(png|jpg)', which looks"
        ):
            learn_concepts(names, bank, contexts=contexts)


def test_one_changed_byte_of_a_concepts_file_is_noticed_wherever_it_is(learned: ConceptSet, tmp_path: Path) -> None:
    path = learned.save(tmp_path / "c.safetensors")
    content = path.read_bytes()
    for place in np.unique(np.linspace(0, len(content) - 1, 400).astype(int)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x15]) + content[place + 1 :])
        with pytest.raises(ModelError, match=r"c\.safetensors'"):
            ConceptSet.load(path)
