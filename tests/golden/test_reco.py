"""Co-segmentation against ReCo's released code, and against brute force by the definition of its paper."""

from __future__ import annotations

import pytest
import torch
from helpers.golden import Case
from torch import Tensor
from torch.nn import functional

from ovseg.concepts.cosegment import context_weights, cosegment, likeness, reference_of, seed_features
from ovseg.concepts.released import released_cosegment, text_attention

WEIGHTED = pytest.mark.parametrize("weighted", [False, True])


def inputs(*, weighted: bool) -> tuple[Case, Tensor, Tensor | None, str]:
    case = Case("reco_cosegment")
    form = "weighted" if weighted else "unweighted"
    return case, case["input.features"], case["input.weights"] if weighted else None, form


@WEIGHTED
def test_the_released_code(weighted: bool) -> None:
    case, features, weights, form = inputs(weighted=weighted)
    found = released_cosegment(features, weights)
    assert torch.equal(found.seeds, case[f"expected.released_seeds_{form}"])
    case.close(found.reference, case[f"expected.released_reference_{form}"])
    unit = reference_of(seed_features(functional.normalize(features, dim=1), found.seeds))
    case.close(unit, case[f"expected.released_reference_unit_features_{form}"])


@WEIGHTED
def test_the_definition_of_the_paper(weighted: bool) -> None:
    case, features, weights, form = inputs(weighted=weighted)
    found = cosegment(functional.normalize(features, dim=1), weights)
    case.close(found.support, case[f"expected.paper_support_{form}"])
    assert torch.equal(found.seeds, case[f"expected.paper_seeds_{form}"])
    case.close(found.reference, case[f"expected.paper_reference_{form}"])
    raw = reference_of(seed_features(features, found.seeds))
    case.close(raw, case[f"expected.paper_reference_raw_{form}"])


def test_the_whole_released_way_with_text_and_contexts() -> None:
    case = Case("reco_cosegment")
    features, contexts = case["input.features"], case["input.context_references"]
    unit, references = functional.normalize(features, dim=1), functional.normalize(contexts, dim=1)
    similar = torch.stack([likeness(unit, reference) for reference in references], 1)
    case.close(similar, case["expected.context_similarity"])
    attention = text_attention(case["input.dense"], case["input.text"], features.shape[2:])
    case.close(attention, case["expected.text_attention"])
    weights = attention * context_weights(unit, list(references))
    case.close(weights, case["expected.cosegment_weights"])
    case.close(released_cosegment(features, weights).reference, case["expected.cosegment_reference"])
