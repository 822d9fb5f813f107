"""Trained heads with the weights of a case, against the authors' code."""

from __future__ import annotations

import torch
from helpers.golden import Case
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures, TextEncoder
from ovseg.heads.base import IdentityHead, Phrases
from ovseg.heads.denseclip import DenseClip, DenseClipSettings
from ovseg.heads.fusioner import Fusioner, FusionerSettings

FUSIONER = {
    "fusion.cls_emb": "text_mark",
    "fusion.proj_patch": "visual_out.weight",
    "fusion.proj_classes": "text_out.weight",
    "fusion.visual_proj": "visual_in",
    "fusion.text_proj": "text_in",
    "fusion.norm": "norm",
    "fusion.blocks": "blocks",
    ".norm1": ".norm",
    ".norm2": ".inner_norm",
    ".attn.proj": ".attention.out",
    ".mlp.fc1": ".inner.0",
    ".mlp.fc2": ".inner.3",
}


def renamed(name: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        name = name.replace(theirs, ours)
    return name


def fusioner_of(case: Case) -> Fusioner:
    sizes = case.facts["hyper_parameters"]
    widths = {"features": case["fusion.visual_proj.0.weight"].numel(), "joint": 1}
    settings = {
        "widths": {**widths, "text": case["fusion.text_proj.0.weight"].numel()},
        "residual": False,
        "width": sizes["width"],
        "layers": sizes["layers"],
        "attention_heads": sizes["heads"],
        "inner": sizes["feed_forward"],
        "upsamplings": last_convolution(case) - 1,
        "temperature": sizes["temperature"],
    }
    head = Fusioner(IdentityHead("golden"), FusionerSettings.model_validate(settings))
    state = fusioner_state(case)
    assert set(state) | {"known"} == set(head.state_dict())
    head.load_state_dict({**head.state_dict(), **state})
    return head.eval().requires_grad_(False)


def last_convolution(case: Case) -> int:
    """The number of the 1×1 one."""
    return max(int(name.split(".")[1][5:]) for name in case.tensors if name.startswith("decoder."))


def fusioner_state(case: Case) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    last = last_convolution(case)
    for name, value in case.tensors.items():
        if name.startswith("decoder."):
            number, kind = name.removeprefix("decoder.conv_").split(".")
            state[f"decoder.{'out' if int(number) == last else f'convolutions.{number}'}.{kind}"] = value
        elif ".attn.qkv." in name:
            place, kind = name.removeprefix("fusion.").split(".attn.qkv.")
            query, both = value.tensor_split([len(value) // 3])
            state |= {f"{place}.attention.query.{kind}": query, f"{place}.attention.key_value.{kind}": both}
        elif name.startswith("fusion."):
            state[renamed(name, FUSIONER)] = (
                value[0] if name == "fusion.cls_emb" else value.T if ".proj_" in name else value
            )
    return state


def test_fusioner_is_that_of_its_authors() -> None:
    case = Case("fusioner")
    head, facts = fusioner_of(case), case.facts["hyper_parameters"]
    fused_within = {"atol": case.facts["tolerance_float32"]["fused_atol"], "rtol": 0.0}
    for shape, grid in facts["grids"].items():
        cells = case[f"input.visual_{shape}"].transpose(1, 2).unflatten(2, grid)
        maps, words = head.fused(cells, case["input.text"][0])
        case.close(maps.flatten(2).transpose(1, 2), case[f"expected.fused_visual_{shape}"], **fused_within)
        case.close(words, case[f"expected.fused_text_{shape}"], **fused_within)
        size = tuple(facts["target"])
        if f"expected.decoded_{shape}" in case.tensors:
            case.close(head.decoded(maps, size=size), case[f"expected.decoded_{shape}"])
        case.close(head.logits(maps, words, size=size)[0], case[f"expected.logits_{shape}"])


def test_fusioner_answers_at_the_pixels_of_the_encoder_input() -> None:
    """With a stride that gives the released size, ``fuse`` is the whole released network."""
    case = Case("fusioner")
    head, facts = fusioner_of(case), case.facts["hyper_parameters"]
    grid, text = facts["grids"]["square"], case["input.text"][0]
    cells = case["input.visual_square"].transpose(1, 2).unflatten(2, grid)
    answer = head.fuse(DenseFeatures(cells, head.space, 16, inputs=cells), Phrases(text, inputs=text))
    assert answer.stride == 1 and answer.structure is None
    size = (16 * grid[0], 16 * grid[1])
    torch.testing.assert_close(answer.values, head.logits(*head.fused(cells, text), size=size))


DENSECLIP = {
    "memory_proj": "memory_in",
    "text_proj": "query_in",
    "out_proj": "delta_out",
    ".self_attn.q_proj": ".itself.attention.query",
    ".self_attn.proj": ".itself.attention.out",
    ".cross_attn.q_proj": ".cross.query",
    ".cross_attn.proj": ".cross.out",
    ".norm1": ".itself.norm",
    ".norm2": ".norm",
    ".norm3": ".itself.inner_norm",
    ".mlp": ".itself.inner",
}


def denseclip_state(case: Case) -> dict[str, Tensor]:
    weights = case.state("context_decoder")
    state = {"gamma": case["input.gamma"]}
    for name, value in weights.items():
        if name.endswith(".k_proj.weight"):
            both = torch.cat([value, weights[name.replace("k_proj", "v_proj")]])
            state[renamed(name.replace("k_proj", "q_proj"), DENSECLIP).replace("query", "key_value")] = both
        elif not name.endswith(".v_proj.weight"):
            state[renamed(name, DENSECLIP)] = value
    return state


def denseclip_of(case: Case) -> DenseClip:
    sizes, channels = case.facts["hyper_parameters"], case["input.gamma"].numel()
    settings = {
        "widths": {"features": channels, "text": channels, "joint": channels},
        "residual": False,
        "contexts": 0,
        "pyramid": 0,
        "width": sizes["width"],
        "layers": sizes["layers"],
        "attention_heads": sizes["heads"],
        "temperature": sizes["tau"],
    }
    head = DenseClip(IdentityHead("golden"), DenseClipSettings.model_validate(settings), no_text)
    state = denseclip_state(case)
    assert set(state) | {"known"} == set(head.state_dict())
    head.load_state_dict({**head.state_dict(), **state})
    return head.eval().requires_grad_(False)


def no_text() -> TextEncoder:
    raise AssertionError("the text encoder was asked for")


def test_denseclip_is_that_of_its_authors() -> None:
    case = Case("denseclip")
    head, text = denseclip_of(case), case["input.text"][0]
    visual, whole = case["input.visual"], case["input.global"]
    case.close(head.delta(visual, text, whole=whole), case["expected.delta"])
    case.close(head.delta(visual, text), case["expected.delta_mean_as_global"])
    moved = head.prompted(visual, head.phrases(text), whole=whole)
    case.close(moved, case["expected.text"])
    case.close(head.scores(visual, moved) * head.settings.temperature, case["expected.score_map"])


def test_denseclip_takes_the_image_as_a_whole_from_its_features() -> None:
    case = Case("denseclip")
    head = denseclip_of(case)
    features = DenseFeatures(case["input.visual"], "golden", 16, whole=case["input.global"])
    answer = head.fuse(head.pixels(features), head.phrases(case["input.text"][0]))
    case.close(answer.values * head.settings.temperature, case["expected.score_map"])
