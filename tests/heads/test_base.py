from __future__ import annotations

from typing import Any

import pytest
import torch

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ShapeError
from ovseg.heads.adapter import Adapter, AdapterSettings
from ovseg.heads.base import Head, IdentityHead, Phrases
from ovseg.heads.denseclip import DenseClip, DenseClipSettings
from ovseg.heads.fusioner import Fusioner, FusionerSettings
from ovseg.heads.textmap import TextMap, TextMapSettings

WIDTHS = {"features": 5, "text": 5, "joint": 5}
BASE = IdentityHead("toy")
HEADS: dict[str, Any] = {
    "identity": lambda: BASE,
    "adapter": lambda: Adapter(BASE, AdapterSettings.model_validate({"widths": WIDTHS, "trust": 0.5, "names": 2})),
    "fusioner": lambda: Fusioner(
        BASE, FusionerSettings.model_validate({"widths": WIDTHS, "width": 8, "layers": 1, "inner": 8})
    ),
    "denseclip": lambda: DenseClip(
        BASE,
        DenseClipSettings.model_validate({"widths": WIDTHS, "contexts": 0, "width": 8, "inputs": "encoder"}),
        lambda: pytest.fail("the text encoder was asked for"),
    ),
    "textmap": lambda: TextMap(BASE, TextMapSettings.model_validate({"widths": WIDTHS})),
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_phrases_of_some_vectors_are_those_rows_of_the_phrases_of_all(kind: str) -> None:
    torch.manual_seed(0)
    head, vectors = HEADS[kind](), torch.randn(6, 5)
    head = head.eval() if isinstance(head, torch.nn.Module) else head
    assert isinstance(head, Head) and not head.reads_tokens
    everything = head.phrases(vectors)
    assert len(everything) == 6
    for rows in (torch.tensor([4, 0, 4]), slice(1, 3), torch.tensor([True, False, False, True, False, True])):
        some, expected = everything[rows], head.phrases(vectors[rows])
        for field in ("values", "inputs", "trust", "tokens"):
            one, other = getattr(some, field), getattr(expected, field)
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


def test_every_field_of_phrases_moves_to_the_device() -> None:
    moved = Phrases(*(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, 5).long())).to(
        torch.device("meta")
    )
    fields = (moved.values, moved.inputs, moved.trust, moved.tokens)
    assert all(field is not None and field.device.type == "meta" for field in fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": torch.zeros(3)}, r"values must be \(Q, D\), got \(3,\)"),
        ({"inputs": torch.zeros(2, 4)}, r"inputs must be \(Q=3, C\), got \(2, 4\)"),
        ({"trust": torch.zeros(3, 1)}, r"trust must be \(Q=3\), got \(3, 1\)"),
        ({"tokens": torch.zeros(4, 7)}, r"tokens must be \(Q=3, T\), got \(4, 7\)"),
    ],
)
def test_fields_that_do_not_belong_together_are_refused(fields: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Phrases(**{"values": torch.zeros(3, 2), **fields})


def test_inputs_on_another_grid_than_the_values_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"inputs must be \(B=1, I, h=3, w=5\), got \(1, 2, 3, 4\)"):
        DenseFeatures(torch.zeros(1, 2, 3, 5), "toy", 8, inputs=torch.zeros(1, 2, 3, 4))


def test_the_vector_of_an_image_has_the_channels_of_what_is_read() -> None:
    maps, wide = torch.zeros(1, 2, 3, 5), torch.zeros(1, 4, 3, 5)
    assert DenseFeatures(maps, "toy", 8, inputs=wide, whole=torch.zeros(1, 4)).whole is not None
    with pytest.raises(ShapeError, match=r"whole must be \(B=1, C=2\), got \(1, 4\)"):
        DenseFeatures(maps, "toy", 8, whole=torch.zeros(1, 4))
    two = DenseFeatures(torch.zeros(2, 2, 3, 5), "toy", 8, whole=torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert two.of_image(1).whole.tolist() == [[3.0, 4.0]]  # type: ignore[union-attr]


def test_encoder_inputs_stand_beside_the_joint_values_and_not_among_them() -> None:
    torch.manual_seed(0)
    settings = {"widths": WIDTHS, "width": 8, "layers": 1, "inner": 8, "inputs": "encoder", "contrast": 0.5}
    head = Fusioner(BASE, FusionerSettings.model_validate(settings))
    dense, vectors = DenseFeatures(torch.randn(2, 5, 3, 4), "toy", 8), torch.randn(6, 5)
    pixels, phrases = head.pixels(dense), head.phrases(vectors)
    assert pixels.inputs is dense.values and phrases.inputs is not None
    mean = dense.values.mean((2, 3), keepdim=True)
    torch.testing.assert_close(pixels.values, dense.values - 0.5 * mean)
    assert torch.equal(phrases.inputs, vectors) and torch.equal(phrases.values, vectors)
