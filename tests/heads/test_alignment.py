from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.embedded.vision import PARTS, SPACE, STRIDE
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ModelError, SpaceError
from ovseg.heads.alignment import AlignmentHead
from ovseg.weights import save_weights

CHANNELS = sum(PARTS.values())


def random_head(seed: int = 0) -> AlignmentHead:
    """A head whose maps, weights and tables are all random."""
    draw = torch.Generator().manual_seed(seed)
    head = AlignmentHead()
    with torch.no_grad():
        for tensor in head.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.3)
        for table in (head.class_text, head.class_columns, head.thing_text):
            table.copy_(functional.normalize(table, dim=-1))
        head.thing_text[0] = functional.normalize(phrases()[0] - head.text_mean, dim=0)
    return head.eval().requires_grad_(False)


def features(batch: int = 1) -> DenseFeatures:
    values = torch.randn(batch, CHANNELS, 3, 4, generator=torch.Generator().manual_seed(1))
    return DenseFeatures(values, SPACE, STRIDE)


def phrases(count: int = 5) -> Tensor:
    vectors = torch.randn(count, 384, generator=torch.Generator().manual_seed(2))
    vectors[0] = 1.0  # near the name of the first thing, so that there is detector evidence
    return functional.normalize(vectors, dim=-1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_joint_dot_product_is_the_sum_of_all_evidence(seed: int) -> None:
    head, dense, vectors = random_head(seed), features(), phrases()
    joint = torch.einsum("qc,chw->hwq", head.phrases(vectors).values, head.pixels(dense).values[0]).flatten(0, 1)
    cells = dense.values[0].flatten(1).T  # (n, C)
    prototypes = head.prototypes(vectors)
    evidence = head.evidence_parts(cells, prototypes) @ head.log_evidence.exp()
    mapped = functional.normalize(head.visual(head.trained_part(cells)), dim=-1)
    trained = head.log_scale.exp() * mapped @ head.map_phrases(vectors).T
    torch.testing.assert_close(joint, evidence + trained, atol=1e-4, rtol=1e-4)
    assert prototypes[0, 1280:1360].abs().sum() > 0


def test_untrained_cells_and_prototypes_give_the_first_two_parts() -> None:
    head, cells = random_head(), features().values[0].flatten(1).T
    prototypes = head.prototypes(phrases())
    parts = head.evidence_parts(cells, prototypes)
    torch.testing.assert_close(head.untrained_part(cells) @ prototypes.T, parts[..., 0] + parts[..., 1])


def test_shapes_and_lengths_of_both_sides() -> None:
    head = random_head()
    joint, bank = head.pixels(features(2)), head.phrases(phrases()).values
    assert joint.values.shape == (2, 1618, 3, 4) and bank.shape == (5, 1618)
    assert (joint.space, joint.stride) == (head.space, STRIDE)
    torch.testing.assert_close(bank[:, :256].norm(dim=1), torch.ones(5))
    torch.testing.assert_close(bank[:, 256:1536].norm(dim=1), torch.ones(5))
    scale = head.log_scale.exp().expand(2, 3, 4)
    torch.testing.assert_close(joint.values[:, :256].norm(dim=1), scale)


def test_a_batch_of_two_equals_two_of_one() -> None:
    head, both = random_head(), features(2)
    together = head.pixels(both).values
    for number in range(2):
        one = DenseFeatures(both.values[number : number + 1], SPACE, STRIDE)
        torch.testing.assert_close(together[number : number + 1], head.pixels(one).values)


def test_a_phrase_far_from_all_things_has_no_detector_evidence() -> None:
    head = random_head()
    head.thing_text.zero_()
    assert head.prototypes(phrases())[:, 1280:1360].abs().sum() == 0


def test_a_fresh_head_keeps_the_tables_and_draws_new_maps() -> None:
    torch.manual_seed(0)
    head = random_head()
    fresh = head.fresh()
    for name, table in head.named_buffers():
        assert torch.equal(table, dict(fresh.named_buffers())[name]), name
    assert not torch.equal(fresh.visual.weight, head.visual.weight)
    assert not torch.equal(fresh.log_evidence, head.log_evidence)
    assert fresh.visual.weight.requires_grad


def test_a_saved_head_comes_back(tmp_path: Path) -> None:
    head = random_head()
    save_weights(head.state_dict(), tmp_path / "head.safetensors", bits=32)
    loaded = AlignmentHead.load(tmp_path / "head.safetensors")
    torch.testing.assert_close(loaded.pixels(features()).values, head.pixels(features()).values)
    assert not loaded.training


def test_features_of_another_encoder_are_refused() -> None:
    with pytest.raises(SpaceError, match=f"features are in 'clip' but the text bank is in '{SPACE.split('+')[0]}"):
        random_head().pixels(DenseFeatures(torch.zeros(1, CHANNELS, 2, 2), "clip", STRIDE))


def test_weights_of_another_head_are_refused(tmp_path: Path) -> None:
    save_weights({"visual.weight": torch.zeros(2, 2)}, tmp_path / "head.safetensors")
    with pytest.raises(ModelError, match="does not hold the weights of AlignmentHead"):
        AlignmentHead.load(tmp_path / "head.safetensors")
