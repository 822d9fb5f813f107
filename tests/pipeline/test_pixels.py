"""Labels decided at pixels: bands change nothing, equals go to what is none, modifiers reach every query."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from ovseg.errors import ConfigError
from ovseg.images.geometry import ImageGeometry
from ovseg.models.config import ModelConfig
from ovseg.models.sections import RefineConfig, ScoringConfig
from ovseg.pipeline import pixels
from ovseg.pipeline.decide import DecisionRules
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.pixels import BandRefinement, decide_pixels, label_scores
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter
from ovseg.refine import reach_of, released_pamr
from ovseg.vocabulary.labels import Concept, Vocabulary

SIZE, GRID = (37, 50), (3, 4)
GEOMETRY = ImageGeometry(SIZE, (48, 64), (48, 64))
OWNERS = torch.tensor([0, 0, 1, 2, 3, 3])  # two labels of two and one phrases; two things that are none of them


def make_logits(values: torch.Tensor | None = None, owners: torch.Tensor = OWNERS) -> ClassLogits:
    if values is None:
        values = torch.randn(len(owners), *GRID, generator=torch.Generator().manual_seed(0))
    queries = QueryBank.of_vectors(
        torch.zeros(len(owners), 1), owners.tolist(), Vocabulary.of(["cat", "dog"]), space="s", logit_scale=1.0
    )
    return ClassLogits(values, 16, queries, class_of_row=owners)


def slow_probabilities(logits: ClassLogits) -> torch.Tensor:
    """(K, H, W) float64: every phrase at every pixel, softmax, the best of each class."""
    maps = torch.nn.functional.interpolate(
        logits.values[None].double(), size=SIZE, mode="bilinear", align_corners=False
    )[0]
    shares = maps.softmax(0)
    return torch.stack([shares[number == OWNERS].amax(0) for number in range(4)])


def test_every_phrase_takes_part_in_the_softmax_of_a_pixel() -> None:
    logits = make_logits()
    slow = slow_probabilities(logits)
    found = decide_pixels(logits, GEOMETRY)
    two = slow.topk(2, dim=0)
    assert torch.equal(found.index.long(), two.indices[0])
    torch.testing.assert_close(found.best.double(), two.values[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.second.double(), two.values[1], atol=1e-6, rtol=1e-6)
    scores = torch.from_numpy(label_scores(logits, GEOMETRY)).double()
    torch.testing.assert_close(scores, slow[:2], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("refined", [False, True])
def test_bands_of_rows_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, refined: bool) -> None:
    logits, options = make_logits(), {"iterations": 3, "dilations": (1, 2)}
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    refinement = None
    if refined:
        reach = reach_of("pamr-released", options)
        assert reach == 8
        refinement = BandRefinement(image, partial(released_pamr, **options), reach)
    whole = decide_pixels(logits, GEOMETRY, refinement=refinement)
    monkeypatch.setattr(pixels, "_BAND_VALUES", 5 * len(OWNERS) * SIZE[1])
    monkeypatch.setattr(pixels, "_AT_ONCE", 2)
    bands = decide_pixels(logits, GEOMETRY, refinement=refinement)
    for one, other in ((whole.best, bands.best), (whole.second, bands.second)):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    assert (whole.index == bands.index).float().mean() > 0.999


def test_of_equals_what_is_none_of_the_labels_wins() -> None:
    found = decide_pixels(make_logits(torch.zeros(6, *GRID)), GEOMETRY)
    assert (found.index == 2).all()
    torch.testing.assert_close(found.best, torch.full(SIZE, 1 / 6))


def test_dropped_classes_win_nothing() -> None:
    dropped = torch.tensor([True, False, True, True])
    assert (decide_pixels(make_logits(), GEOMETRY, dropped=dropped).index == 1).all()


def test_what_is_added_to_a_class_reaches_all_its_queries() -> None:
    logits = make_logits()
    added = logits.plus(torch.tensor([0, 3]), torch.tensor([2.0, 5.0])[:, None, None])
    change = (added.values - logits.values)[:, 0, 0]
    torch.testing.assert_close(change, torch.tensor([2.0, 2.0, 0.0, 0.0, 5.0, 5.0]))
    gone = logits.without(torch.tensor([True, False]))
    assert gone.values[:, 0, 0].isinf().tolist() == [True, True, False, False, False, False]


def test_a_refinement_that_needs_whole_maps_is_refused_at_pixels(small: Segmenter) -> None:
    values = small.config.model_dump()
    values["scoring"] = {"over": "phrases", "at": "pixels"}
    values["refine"] |= {"method": "guided", "options": {}}
    with pytest.raises(ConfigError, match="refinement 'guided' needs whole maps"):
        DecisionRules(ModelConfig.model_validate(values))


def test_every_order_is_a_choice_of_the_model_file(small: Segmenter) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (60, 90, 3))
    stripes = np.where(np.arange(60)[:, None, None] < 30, (90, 140, 190), (60, 150, 40))
    picture = (stripes + noise).astype(np.uint8)
    results, settings = {}, set()
    for over in ("classes", "phrases"):
        for at in ("cells", "pixels"):
            whole = RefineConfig()  # borders alone are for cells
            config = small.config.model_copy(update={"scoring": ScoringConfig(over=over, at=at), "refine": whole})
            changed = Segmenter(replace(small.model, config=config), device=small.device)
            grass = Concept("grass", synonyms=("lawn", "meadow"))
            results[over, at] = changed.segment(picture, [grass, "sky"], background=["wall", "dog"], refine=False)
            settings.add(changed.info["settings"])
    assert len(settings) == 4
    usual = results["classes", "cells"]
    for key, result in results.items():
        assert (result.index_map == usual.index_map).mean() > 0.8
        assert key == ("classes", "cells") or not np.allclose(result.score_map, usual.score_map, atol=1e-4)
    # a class whose phrases share its probability can only lose by that
    assert results["phrases", "pixels"].score_map.mean() < results["classes", "pixels"].score_map.mean()
