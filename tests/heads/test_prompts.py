from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from ovseg._torchvision import ensure_torchvision
from ovseg.encoders.openclip_text import OpenClipText
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError, VocabularyError
from ovseg.heads.base import IdentityHead
from ovseg.heads.denseclip import DenseClip, DenseClipSettings
from ovseg.heads.prompts import LONGEST, context_width, encode_tokens, encode_with_contexts
from ovseg.heads.textmap import TextMap, TextMapSettings
from ovseg.pipeline.segmenter import Segmenter

PHRASES = ["cat", "a red traffic light", "hot dog stand"]


@pytest.fixture(scope="module")
def clip() -> OpenClipText:
    """A tiny open_clip text tower with random weights."""
    ensure_torchvision()
    import open_clip
    from open_clip.model import CLIP

    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    model = CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text).eval().requires_grad_(False)  # type: ignore[arg-type]
    model.token_embedding.weight.normal_()
    return OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"), space="toy")


def texts(mini: Segmenter, clip: OpenClipText) -> list[Any]:
    return [mini.model.text(), clip]


def test_tokens_are_the_tokenizers_own_and_minus_one_after_the_last(mini: Segmenter, clip: OpenClipText) -> None:
    tokens = encode_tokens(mini.model.text(), PHRASES)
    assert tokens.shape == (3, LONGEST) and tokens.dtype == torch.int64
    for row, phrase in zip(tokens.tolist(), PHRASES, strict=True):
        ids = mini.model.text().tokenizer.encode(phrase).ids  # type: ignore[attr-defined]
        assert row == [*ids, *[-1] * (LONGEST - len(ids))]
    start, cat, end = encode_tokens(clip, ["cat"])[0, :3].tolist()
    assert (start, end) == (49406, 49407) and 0 < cat < start


def test_no_contexts_give_the_encoders_own_vectors(mini: Segmenter, clip: OpenClipText) -> None:
    for text in texts(mini, clip):
        ids = encode_tokens(text, PHRASES)
        vectors = encode_with_contexts(text, ids, torch.zeros(0, context_width(text)))
        torch.testing.assert_close(vectors, text.encode(PHRASES).clone(), atol=1e-5, rtol=1e-4)


def test_contexts_that_are_words_give_the_vectors_of_those_words(mini: Segmenter, clip: OpenClipText) -> None:
    for text, embedding in zip(
        texts(mini, clip),
        (mini.model.text().model.words, clip.model.token_embedding),
        strict=True,  # type: ignore[attr-defined]
    ):
        words = encode_tokens(text, ["photo of"])[0, 1:3]
        ids = encode_tokens(text, ["cat", "dog"])
        vectors = encode_with_contexts(text, ids, embedding.weight[words])
        expected = text.encode(["photo of cat", "photo of dog"])
        torch.testing.assert_close(vectors, expected.clone(), atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_contexts_and_nothing_else(mini: Segmenter) -> None:
    text = mini.model.text()
    contexts = torch.zeros(2, context_width(text), requires_grad=True)
    encode_with_contexts(text, encode_tokens(text, PHRASES), contexts)[0, 0].backward()
    assert contexts.grad is not None and contexts.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in text.model.parameters())  # type: ignore[attr-defined]
    embedding = text.model.words  # type: ignore[attr-defined]
    assert not embedding._forward_hooks


def test_a_phrase_of_too_many_tokens_is_named(mini: Segmenter) -> None:
    with pytest.raises(VocabularyError, match="at most 32 tokens, got 'cat cat"):
        encode_tokens(mini.model.text(), ["dog", "cat " * 40])


def test_a_text_encoder_that_takes_no_contexts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got object; set head.settings.contexts to 0"):
        context_width(object())  # type: ignore[arg-type]


def test_a_clip_text_keeps_its_length_where_cosines_follow(mini: Segmenter, clip: OpenClipText) -> None:
    ids, contexts = encode_tokens(clip, PHRASES), torch.zeros(0, 16)
    raw = encode_with_contexts(clip, ids, contexts, unit=False)
    torch.testing.assert_close(raw, clip.model.encode_text(clip._ids(PHRASES)).clone(), atol=1e-5, rtol=1e-4)
    widths = {"features": 8, "text": 8, "joint": 8}
    for temperature, expected in ((0.07, raw), (None, functional.normalize(raw, dim=-1))):
        settings = {"widths": widths, "contexts": 1, "context_width": 16, "width": 8, "temperature": temperature}
        head = DenseClip(IdentityHead("toy"), DenseClipSettings.model_validate(settings), lambda: clip)
        head.contexts.data = contexts
        torch.testing.assert_close(head.phrases(ids).values, expected)


def prompted_head(mini: Segmenter, prompting: str) -> DenseClip:
    base = mini.model.head
    settings = DenseClipSettings(
        widths={"features": 3440, "text": 384, "joint": 1618},  # type: ignore[arg-type]
        prompting=prompting,  # type: ignore[arg-type]
        contexts=2,
        context_width=384,
        width=16,
        layers=1,
        temperature=None,
        pyramid=0,
        gamma=0.5,
    )
    torch.manual_seed(0)
    return DenseClip(base, settings, mini.model.text).eval()


def test_pre_model_prompting_encodes_the_phrases_once_per_image(mini: Segmenter) -> None:
    """Contexts = learned + γ·Δ(learned, image); then the frozen text encoder and the head below."""
    head = prompted_head(mini, "pre")
    tokens = encode_tokens(mini.model.text(), PHRASES)
    values = torch.randn(2, 3440, 2, 3, generator=torch.Generator().manual_seed(1))
    pixels = head.pixels(DenseFeatures(values, head.feature_space, 16))
    with torch.no_grad():
        found = head.fuse(pixels, head.phrases(tokens))
        moved = head.contexts + head.gamma * head.delta(pixels.values, head.contexts)
        assert not torch.allclose(moved[0], moved[1])
        for image in range(2):
            vectors = encode_with_contexts(mini.model.text(), tokens, moved[image])
            text = head.base.phrases(vectors).values
            slow = torch.einsum("dhw,qd->qhw", pixels.values[image], text)
            torch.testing.assert_close(found.values[image], slow, atol=1e-4, rtol=1e-4)


def test_post_model_contexts_are_encoded_with_the_vocabulary(mini: Segmenter) -> None:
    head = prompted_head(mini, "post")
    tokens = encode_tokens(mini.model.text(), PHRASES)
    vectors = encode_with_contexts(mini.model.text(), tokens, head.contexts)
    with torch.no_grad():
        torch.testing.assert_close(head.phrases(tokens).values, head.base.phrases(vectors).values)


def test_the_text_map_is_linear_tanh_linear_and_takes_the_best_attention_head() -> None:
    settings = TextMapSettings(widths={"features": 3, "text": 2, "joint": 5})  # type: ignore[arg-type]
    base: Any = type("Base", (), {"feature_space": "dino", "text_space": "bert", "space": "none"})()
    torch.manual_seed(0)
    head = TextMap(base, settings).double().requires_grad_(False)
    head.mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    vectors, pooled = torch.randn(4, 2).double(), torch.randn(3, 2, 3).double()
    found = head.captions_to_images(vectors, pooled)
    for caption, vector in enumerate(vectors):
        inner = torch.tanh(head.inner.weight @ vector + head.inner.bias)
        mapped = head.outer.weight @ inner + head.outer.bias
        for image in range(3):
            cosines = [
                float(functional.cosine_similarity(mapped, part - head.mean, dim=0)) for part in pooled[image]
            ]
            assert float(found[caption, image]) == pytest.approx(max(cosines) / 0.07, rel=1e-6)
