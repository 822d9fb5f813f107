"""The embedded networks as they ship: shapes, lengths, and files that come back whole."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovseg.encoders.embedded.sentence import SentenceEncoder
from ovseg.encoders.embedded.vision import PARTS, SPACE, STRIDE, MiniVision, part_slices
from ovseg.errors import ModelError
from ovseg.images.resize import prepare
from ovseg.pipeline.segmenter import Segmenter
from ovseg.weights import load_module, load_weights, quantize_rows, save_weights


@pytest.fixture(scope="module")
def vision(mini: Segmenter) -> MiniVision:
    assert isinstance(mini.model.image, MiniVision)
    return mini.model.image


@pytest.fixture(scope="module")
def sentences(mini: Segmenter) -> SentenceEncoder:
    text = mini.model.text()
    assert isinstance(text, SentenceEncoder)
    return text


def pixels(batch: int = 1, height: int = 96, width: int = 160) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_features_have_the_documented_shape(vision: MiniVision) -> None:
    features = vision.dense(pixels())
    assert features.values.shape == (1, sum(PARTS.values()), 96 // STRIDE, 160 // STRIDE)
    assert features.values.shape[1] == vision.spec.channels
    assert features.structure is not None and features.structure.shape == (1, PARTS["middle"], 6, 10)
    assert (features.space, features.stride) == (SPACE, STRIDE)
    assert features.values.dtype == torch.float32


def test_all_parts_but_the_detections_have_unit_length(vision: MiniVision) -> None:
    features = vision.dense(pixels())
    for name, place in part_slices().items():
        part = features.values[:, place]
        if name == "detected":
            assert part.min() >= 0 and part.max() <= 1
        else:
            torch.testing.assert_close(part.norm(dim=1), torch.ones(1, 6, 10))
    assert torch.equal(features.structure, features.values[:, part_slices()["middle"]])


def test_the_weights_that_ship_give_these_numbers(mini: Segmenter, vision: MiniVision) -> None:
    """Values of the shipped weights on a picture made by a formula; other weights or another order change them."""
    y, x = np.mgrid[:96, :160]
    picture = np.stack([(x * 3 + y) % 256, (y * 5) % 256, (x * y // 7) % 256], -1).astype(np.uint8)
    values = vision.dense(prepare(picture, vision.spec, size=(96, 160))[0]).values[0, :, 2, 7]
    first = {name: round(float(values[place.start]), 3) for name, place in part_slices().items()}
    assert first == pytest.approx(
        {
            "fine": -0.034,
            "middle": -0.004,
            "body": -0.014,
            "near": 0.116,
            "mid": -0.148,
            "far": -0.073,
            "penultimate": -0.014,
            "detected": 0.077,
        },
        abs=2e-3,
    )
    queries = mini.queries(["dog", "road"]).embeddings
    assert queries[[0, 1, 0, 1], [0, 100, 300, 1500]].tolist() == pytest.approx(
        [0.0331, -0.0491, 0.0091, -0.0431], abs=1e-3
    )


def test_a_detection_counts_with_its_best_place_not_with_the_mean(
    vision: MiniVision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One confident cell of the fine level, in a 2x2 square that says nothing else, is that square's evidence."""
    found = vision.detector(pixels())
    fine, middle, coarse = (torch.zeros_like(maps) for maps in found.classes)
    fine[0, 16, 5, 9] = 0.9
    middle[0, 3, 1, 1] = 0.4
    faked = found._replace(classes=(fine, middle, coarse))
    monkeypatch.setattr(vision.detector, "forward", lambda pixels: faked)
    detected = vision.levels(pixels())[0]["detected"]
    assert float(detected[0, 16, 2, 4]) == pytest.approx(0.9)
    assert float(detected[0, 3, 1, 1]) == pytest.approx(0.4)
    assert float(detected.sum()) == pytest.approx(1.3)


def test_the_parts_fill_the_vector_in_order() -> None:
    places = list(part_slices().values())
    assert places[0].start == 0 and places[-1].stop == sum(PARTS.values())
    assert all(before.stop == after.start for before, after in itertools.pairwise(places))


def test_every_parameter_is_frozen(vision: MiniVision, sentences: SentenceEncoder) -> None:
    for module in (vision, sentences.model):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


@torch.inference_mode()
def test_a_batch_of_two_equals_two_of_one(vision: MiniVision) -> None:
    both = pixels(2)
    together = vision.dense(both).values
    for number in range(2):
        alone = vision.dense(both[number : number + 1]).values
        torch.testing.assert_close(together[number : number + 1], alone, atol=1e-4, rtol=1e-3)


def test_the_same_pixels_give_the_same_bytes(vision: MiniVision) -> None:
    assert torch.equal(vision.dense(pixels()).values, vision.dense(pixels()).values)


def test_turning_the_image_turns_the_grid(vision: MiniVision) -> None:
    assert vision.dense(pixels(1, 160, 96)).grid == vision.dense(pixels()).grid[::-1]


def test_sentence_vectors_have_unit_length(sentences: SentenceEncoder) -> None:
    vectors = sentences.encode(["dog", "a photo of a red bicycle", "é"])
    assert vectors.shape == (3, 384)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_vectors_come_back_in_the_order_of_the_phrases(sentences: SentenceEncoder) -> None:
    phrases = ["a very long phrase", "cat", "small dog", "dog", "a long sentence about many things at night"]
    alone = torch.cat([sentences.encode([phrase]) for phrase in phrases])
    torch.testing.assert_close(sentences.encode(phrases), alone, atol=1e-6, rtol=0)


def test_no_phrase_is_padded(sentences: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Tensor] = []
    model = sentences.model
    monkeypatch.setattr(sentences, "model", lambda ids, mask: (ran.append(ids), model(ids, mask))[1])
    sentences.encode(["a red dog", "on a street at night", "cat", "dog"])
    assert sorted(batch.shape[0] for batch in ran) == [1, 1, 2]
    assert all((batch != 0).all() for batch in ran)  # 0 is the padding


def test_related_words_are_nearer_than_unrelated_ones(sentences: SentenceEncoder) -> None:
    cat, kitten, lorry = sentences.encode(["cat", "kitten", "lorry"])
    assert cat @ kitten > cat @ lorry + 0.2


def test_eight_bits_are_off_by_half_a_step_at_most() -> None:
    tensor = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0)) * 10
    tensor[2] = 0
    rows, scale = quantize_rows(tensor)
    assert rows.dtype == torch.int8 and scale.shape == (7,)
    error = (rows.float() * scale[:, None, None] - tensor).abs()
    assert (error <= scale[:, None, None] * 0.5001).all()
    torch.testing.assert_close(scale, tensor.flatten(1).abs().amax(1).clamp_min(1e-12) / 127)


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 0.0), (16, 2e-3), (8, 2e-2)])
def test_saved_weights_come_back(tmp_path: Path, bits: int, tolerance: float) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {"matrix": torch.randn(4, 6, generator=draw), "bias": torch.randn(4, generator=draw)}
    save_weights(tensors, tmp_path / "w.safetensors", metadata={"made": "here"}, bits=bits)
    loaded, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata == {"made": "here"} and set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], tensor, atol=tolerance, rtol=0)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights({"matrix": torch.ones(40, 60)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"'.*w\.safetensors' is not a whole safetensors file"):
        load_weights(path)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ModelError, match=r"file\.x does not hold the weights of Linear: .*bias"):
        load_module(nn.Linear(3, 2), {"weight": torch.zeros(2, 3)}, source="file.x")


def test_a_file_that_is_no_tokenizer_is_refused(mini: Segmenter, tmp_path: Path) -> None:
    from ovseg.assets import asset_root

    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer file '.*' cannot be read"):
        SentenceEncoder.load(asset_root("models") / "mini" / "text.safetensors", tmp_path / "tokenizer.json")
