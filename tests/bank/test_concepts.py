from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ovseg.bank import ConceptSet, ImageBank, learn_concepts
from ovseg.bank.concepts import merge_concepts
from ovseg.bank.learn import LearnOptions, best_threshold, cluster
from ovseg.errors import ModelError, SpaceError, VocabularyError
from ovseg.segmenter import Segmenter
from ovseg.vocabulary import Concept


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
    with pytest.raises(SpaceError, match="weights 'x', got 'toy-weights'"):
        segmenter.with_concepts(other)
    with pytest.raises(SpaceError):
        merge_concepts([learned, other])
    assert merge_concepts([learned, learned]).names == learned.names


def test_evidence_adds_to_the_text_logit_of_its_label_only(learned: ConceptSet, segmenter: Segmenter) -> None:
    from ovseg.matching import match

    with_concepts = segmenter.with_concepts(learned)
    image = np.full((64, 64, 3), (220, 30, 30), np.uint8)
    labels = ["green", "red"]
    plain = match(segmenter.encode(image).features, segmenter.text_bank(labels))
    encoded = with_concepts.encode(image)
    told = match(encoded.features, with_concepts.text_bank(labels))
    expected = plain.clone()
    expected[1] += with_concepts.strength * learned["red"].confidence * encoded.features.values[0, 7]
    torch.testing.assert_close(told, expected)


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


def test_a_context_is_learned_first_and_is_returned_as_itself(bank: ImageBank) -> None:
    concepts = learn_concepts(["white", "yellow"], bank, k=6, contexts=["white"])
    assert concepts.contexts == ("white",)
    assert int(concepts["yellow"].embeddings.sum(0).argmax()) == 3


def test_negative_examples_are_kept_away(bank: ImageBank) -> None:
    concepts = learn_concepts([Concept("red", not_=("green",))], bank, k=4)
    assert not any("green" in Path(seed.path).name for seed in concepts["red"].seeds)


def test_the_picture_shows_every_concept(learned: ConceptSet, segmenter: Segmenter) -> None:
    picture = learned.show(segmenter, images=4, side=60)
    assert picture.width >= 4 * 60
    assert picture.height >= 3 * 60


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
    threshold, spread, separation = best_threshold(torch.tensor([0.7, 0.8, 0.9]), torch.tensor([0.1, 0.2, 0.3]))
    assert 0.3 < threshold <= 0.7
    assert spread == pytest.approx(0.3)
    assert separation == 1


def test_an_unusable_bank_or_k_is_refused(bank: ImageBank) -> None:
    with pytest.raises(VocabularyError, match="k must be at least 2"):
        learn_concepts(["red"], bank, k=1)
    with pytest.raises(VocabularyError, match="at least one label"):
        learn_concepts([], bank)
