"""FreeDA's prototypes against loops: neighbours of phrases, local scores in superpixels, the whole image."""

import math

import pytest
import torch
from safetensors.torch import save_file

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ModelError, ShapeError
from ovseg.heads.base import SCORES, FusionHead
from ovseg.heads.prototypes import Prototypes, PrototypesSettings, save_prototypes
from ovseg.models.paired import Unjoined
from ovseg.weights import load_module, load_weights

BASE = Unjoined("vision", "words", name="pair")


def entries(count=9):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 5, generator=draw), 3 * torch.randn(count, 4, generator=draw)


def head_of(path, **settings):
    keys, values = entries()
    save_prototypes(path, keys, values)
    head = Prototypes(BASE, PrototypesSettings(**settings))
    load_module(head, load_weights(path)[0], source="a file")
    return head


def cosine(one, other):
    return float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))


def test_a_phrase_is_the_mean_prototype_of_the_words_most_like_it(tmp_path):
    head, vectors = head_of(tmp_path / "p.safetensors", neighbours=3), torch.randn(20, 5)
    keys, values = (part.half().double() for part in entries())
    found = head.phrases(vectors)
    for vector, answer in zip(vectors.double(), found.values, strict=True):
        nearest = sorted(range(9), key=lambda row: -cosine(vector, keys[row]))[:3]
        mean = sum(values[row] for row in nearest) / 3
        torch.testing.assert_close(answer.double(), mean / mean.norm(), atol=1e-5, rtol=1e-5)
    assert torch.equal(found.inputs, vectors)
    every = head_of(tmp_path / "p.safetensors", neighbours=350).phrases(vectors).values
    torch.testing.assert_close(every, every[:1].expand(20, -1))  # of nine, all are taken


def test_a_cell_scores_the_sigmoid_of_its_cosine(tmp_path):
    head = head_of(tmp_path / "p.safetensors", scale=7.0)
    assert isinstance(head, FusionHead)
    features = head.pixels(DenseFeatures(5 * torch.randn(1, 4, 2, 3), "vision", 14))
    phrases = head.phrases(torch.randn(2, 5))
    fused = head.fuse(features, phrases)
    assert (fused.space, fused.stride, features.space) == (SCORES, 14, "vision|prototypes")
    for q in range(2):
        for y in range(2):
            for x in range(3):
                value = cosine(features.values[0, :, y, x].double(), phrases.values[q].double())
                assert float(fused.values[0, q, y, x]) == pytest.approx(7 / (1 + math.exp(-value)), abs=1e-5)


def test_files_and_vectors_that_do_not_fit_are_refused(tmp_path):
    keys, values = entries()
    with pytest.raises(ShapeError, match=r"values must be \(n=9, S\), got \(8, 4\)"):
        save_prototypes(tmp_path / "p.safetensors", keys, values[:8])
    empty = Prototypes(BASE, PrototypesSettings())
    for use in (
        lambda: empty.phrases(keys),
        lambda: empty.pixels(DenseFeatures(torch.ones(1, 4, 1, 1), "vision", 1)),
    ):
        with pytest.raises(ModelError, match="has no prototypes; write a file for it under 'weights:'"):
            use()
    for wrong in ({"keys": keys, "values": values[:8]}, {"keys": keys[0], "values": values}, {"keys": keys}):
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(ModelError, match="does not hold the weights of Prototypes"):
            load_module(
                Prototypes(BASE, PrototypesSettings()), load_weights(tmp_path / "wrong.safetensors")[0], source="it"
            )
    head = head_of(tmp_path / "p.safetensors")
    with pytest.raises(ShapeError, match=r"vectors must be \(Q, C=5\)"):
        head.phrases(torch.ones(2, 6))
    with pytest.raises(ShapeError, match=r"features must be \(B, S=4, h, w\)"):
        head.pixels(DenseFeatures(torch.ones(1, 5, 1, 1), "vision", 1))
