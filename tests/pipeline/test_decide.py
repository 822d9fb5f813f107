from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.errors import ConfigError, SpaceError
from ovseg.heads.base import IdentityHead
from ovseg.images.geometry import ImageGeometry
from ovseg.models.config import ModelConfig, read_model_config
from ovseg.models.model import Model
from ovseg.models.sections import PruneConfig
from ovseg.pipeline.decide import Decision, DecisionRules
from ovseg.pipeline.encode import whole_image
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.modifiers import likely_labels
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Vocabulary

LABELS = 3


def config(**sections: object) -> ModelConfig:
    """Rules without any threshold, but for ``sections``."""
    plain = {"background": {}, "refine": {}, "smoothing": None, **sections}
    values = read_model_config("mini").model_dump() | plain
    return ModelConfig.model_validate(values)


def encoded(size: int) -> EncodedImage:
    """A picture of ``size`` pixels, left half black and right half white, one cell a pixel."""
    image = np.zeros((size, size, 3), np.uint8)
    image[:, size // 2 :] = 255
    features = DenseFeatures(torch.zeros(1, 1, size, size), "toy", 1)
    return EncodedImage(image, features, ImageGeometry((size, size), (size, size), (size, size)))


def certain(index: Tensor, classes: int) -> Tensor:
    """Logits that are sure of ``index`` and hold its number minus one for the second-best."""
    logits = 10.0 * torch.nn.functional.one_hot(index, classes).permute(2, 0, 1).float()
    logits[0] += 5.0
    return logits


def decide(rules: ModelConfig, index: Tensor, *, classes: int = LABELS + 1) -> Tensor:
    """The labels that ``rules`` give; the last class is background."""
    picture = encoded(len(index))
    queries = QueryBank.of_vectors(
        torch.zeros(classes, 1), range(classes), Vocabulary.of(["a", "b", "c"]), space="toy", logit_scale=1.0
    )
    logits = ClassLogits(certain(index, classes), 1, queries)
    decision = DecisionRules(rules).decide(logits, picture, background=True, refine=False)
    return decision.index


def test_a_small_area_goes_to_the_next_class() -> None:
    index = torch.full((10, 10), 1)
    index[0, :10] = 2  # a tenth of what is labelled
    assert (decide(config(), index)[0] == 2).all()
    cut = decide(config(background={"area": 0.1}), index)
    assert (cut[0] == 0).all()  # the second-best class
    assert (cut[1:] == 1).all()
    assert (decide(config(background={"area": 0.09}), index)[0] == 2).all()


def test_background_pixels_do_not_count_for_the_area() -> None:
    index = torch.full((10, 10), LABELS)  # background
    index[:1], index[1:2] = 1, 2
    found = decide(config(background={"area": 0.4}), index)
    assert found[:2].unique().tolist() == [1, 2]
    assert (found[2:] == -1).all()


def test_regions_take_their_most_frequent_label() -> None:
    index = torch.full((32, 32), 1)
    index[:, 16:] = 2
    index[5:9, 5:9] = 0  # a hole in the black half
    rules = config(correction={"source": "slic", "options": {"count": 16}})
    found = decide(rules, index)
    assert (found[:, :16] == 1).all()
    assert (found[:, 16:] == 2).all()


def decided(rules: ModelConfig, probabilities: list[float], *, background: bool = True) -> Decision:
    """What ``rules`` say of a picture whose every cell has these probabilities, the last one of background."""
    values = torch.tensor(probabilities).log()[:, None, None].expand(-1, 4, 4)
    count = len(probabilities)
    queries = QueryBank.of_vectors(
        torch.zeros(count, 1),
        range(count),
        Vocabulary.of([f"label {number}" for number in range(count - 1)]),
        space="toy",
        logit_scale=1.0,
    )
    return DecisionRules(rules).decide(
        ClassLogits(values, 1, queries), encoded(4), background=background, refine=False
    )


@pytest.mark.parametrize(("margin", "found"), [(0.37, 0), (0.38, -1)])
def test_a_pixel_is_none_of_the_labels_where_the_best_two_are_too_close(margin: float, found: int) -> None:
    """The best has 0.6, the next 0.2: 0.6 · √(0.6 − 0.2) = 0.3795."""
    index = decided(config(background={"margin": margin}), [0.6, 0.2, 0.2]).index
    assert index.unique().tolist() == [found]


def test_the_margin_is_not_asked_for_where_every_pixel_has_a_label() -> None:
    rules = config(background={"margin": 0.9, "threshold": 0.9})
    assert decided(rules, [0.6, 0.2, 0.2], background=False).index.unique().tolist() == [0]


def test_presence_is_a_logistic_of_the_best_cell() -> None:
    """logit(0.6) = 0.4055; sigmoid(2 · 0.4055 − 1) = 0.4529, and logit(0.1) = −2.1972."""
    rules = config(background={"presence_slope": 2.0, "presence_offset": -1.0})
    presence = decided(rules, [0.6, 0.1, 0.3]).presence
    assert presence.tolist() == pytest.approx([0.4529, 0.0045], abs=1e-4)


def test_a_label_that_is_probably_absent_paints_nothing() -> None:
    rules = {"presence_slope": 2.0, "presence_offset": -1.0}
    assert decided(config(background={**rules, "presence": 0.45}), [0.6, 0.1, 0.3]).index.eq(0).all()
    assert decided(config(background={**rules, "presence": 0.46}), [0.6, 0.1, 0.3]).index.eq(-1).all()


def test_an_unknown_refinement_and_its_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown refinement 'pamrr'; did you mean 'pamr'"):
        DecisionRules(config(refine={"method": "pamrr"}))
    with pytest.raises(ConfigError, match="'borders_only' is for 'method: pamr'"):
        DecisionRules(config(refine={"method": "guided", "borders_only": True}))
    with pytest.raises(ConfigError, match="refinement 'guided' has no option 'radios'; did you mean 'radius'"):
        DecisionRules(config(refine={"method": "guided", "options": {"radios": 3}}))


def bank(count: int) -> QueryBank:
    """Labels at growing angles from the first axis, two phrases each, and one background phrase."""
    angles = torch.linspace(0, 1.5, count)
    near = torch.stack([angles.cos(), angles.sin()], 1)
    far = -near
    embeddings = torch.cat([torch.stack([far, near], 1).flatten(0, 1), torch.tensor([[1.0, 0.0]])])
    owner = torch.tensor([*(number for number in range(count) for _ in range(2)), count])
    vocabulary = Vocabulary.of([f"label {number}" for number in range(count)], background=["wall"])
    return QueryBank.of_vectors(embeddings, owner.tolist(), vocabulary, space="toy", logit_scale=1.0)


@pytest.mark.parametrize(
    ("count", "rule", "kept"),
    [
        (100, PruneConfig(percentile=80, most=40, least=1), 20),
        (100, PruneConfig(percentile=80, most=15, least=1), 15),
        (100, PruneConfig(percentile=80, most=40, least=30), 30),
        (5, PruneConfig(), 5),
    ],
)
def test_the_labels_nearest_to_the_whole_image_stay(count: int, rule: PruneConfig, kept: int) -> None:
    likely = likely_labels(torch.tensor([1.0, 0.0]), bank(count), rule, space="toy")
    assert likely.tolist() == [number < kept for number in range(count)]


def test_an_image_of_another_space_prunes_nothing() -> None:
    with pytest.raises(SpaceError, match="features are in 'clip' but the text bank is in 'toy'"):
        likely_labels(torch.tensor([1.0, 0.0]), bank(3), PruneConfig(), space="clip")


def test_pruning_needs_a_vector_of_the_whole_image(small: Segmenter) -> None:
    with pytest.raises(ConfigError, match="'prune:' needs a tower"):
        whole_image(small.model.image, torch.zeros(1, 3, 32, 32))
    pruned = small.config.model_copy(update={"prune": PruneConfig()})
    segmenter = Segmenter(replace(small.model, config=pruned), device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="'prune:' needs a tower"):
        segmenter.segment(np.zeros((40, 40, 3), np.uint8), ["cat"])


class Tower:
    """An encoder of two colours: a cell points to the first axis where it is black, to the second where white."""

    spec = EncoderSpec("tower", "toy", 8, 2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def dense(self, pixels: Tensor) -> DenseFeatures:
        """Means over squares of eight pixels."""
        white = torch.nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), 8)
        return DenseFeatures(torch.cat([1 - white, white], 1), "toy", 8)

    def image_vector(self, pixels: Tensor) -> Tensor:
        """The first axis, whatever the image shows."""
        return torch.tensor([[1.0, 0.0]]).expand(len(pixels), 2)

    def to(self, device: torch.device, dtype: torch.dtype) -> Tower:
        """Itself."""
        return self


class Phrases:
    """The phrases "black N" and "white N" at angles that grow with N from the first and the second axis."""

    space = "toy"

    def encode(self, phrases: Sequence[str]) -> Tensor:
        """(n, 2) unit vectors."""
        numbers = [int(phrase.strip(".").split()[-1]) for phrase in phrases]
        sides = [0.0 if "black" in phrase else 1.5 for phrase in phrases]
        angles = [side + 0.001 * number for side, number in zip(sides, numbers, strict=True)]
        return torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles])


def test_a_label_that_the_whole_image_does_not_suggest_is_nowhere() -> None:
    rules = config(prune={"percentile": 50, "least": 1}, templates="one", logit_scale=50.0, colours=None)
    labels = [f"black {n}" for n in range(10)] + [f"white {n}" for n in range(10)]
    image = encoded(64).image
    found = {}
    for name, rule in (("all", rules.model_copy(update={"prune": None})), ("pruned", rules)):
        model = Model(rule, Tower(), Phrases, IdentityHead("toy"), {"image": "none"})
        result = Segmenter(model, device=torch.device("cpu")).segment(image, labels, background=None)
        found[name] = {labels[number].split()[0] for number in np.unique(result.index_map)}
    assert found == {"all": {"black", "white"}, "pruned": {"black"}}


def test_what_is_unsure_and_no_object_is_background() -> None:
    index = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    sure = torch.where(index == 1, 8.0, 3.0)  # of its label over the other: 0.9997 and 0.95
    logits = torch.where(index[None] == torch.arange(2)[:, None, None], sure, torch.zeros(()))
    picture = encoded(4)
    objectness = torch.tensor([0.2, 0.5, 0.6, 0.9]).expand(1, 1, 4, 4)
    seen = replace(picture, features=replace(picture.features, objectness=objectness))
    queries = QueryBank.of_vectors(
        torch.zeros(2, 1), range(2), Vocabulary.of(["a", "b"]), space="toy", logit_scale=1.0
    )
    values = config().model_dump() | {"background": {"objectness": 0.99}}
    values["encoder"]["converter"] = {"file": "a.pt"}
    rules = DecisionRules(ModelConfig.model_validate(values))
    found = rules.decide(ClassLogits(logits, 1, queries), seen, background=True, refine=False)
    assert found.index[0::2].tolist() == [[-1, -1, 0, 0]] * 2 and (found.index[1::2] == 1).all()
    every = rules.decide(ClassLogits(logits, 1, queries), seen, background=False, refine=False)
    assert torch.equal(every.index.long(), index)
    with pytest.raises(ValueError, match=r"background\.objectness needs a section 'converter:'"):
        config(background={"objectness": 0.5})
