"""Numbers that released code of papers gave: one folder a case, as tests/golden/README.md says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(os.environ.get("OVSEG_GOLDEN") or Path(__file__).parents[1] / "golden")


class Case:
    """One case: what ``case.json`` says, and its tensors, float16 widened."""

    def __init__(self, name: str) -> None:
        self.facts: dict[str, Any] = json.loads((FOLDER / name / "case.json").read_text())
        tensors: dict[str, Tensor] = {}
        if "weights_from" in self.facts:
            tensors.update(load_file(FOLDER / name / self.facts["weights_from"] / "case.safetensors"))
        tensors.update(load_file(FOLDER / name / "case.safetensors"))
        self.tensors = {
            key: value.float() if value.is_floating_point() else value for key, value in tensors.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def sizes(self, entry: str) -> list[str]:
        """The endings, such as ``64x96``, that ``entry`` has."""
        return [name.removeprefix(f"{entry}_") for name in self.tensors if name.startswith(f"{entry}_")]

    def state(self, prefix: str) -> dict[str, Tensor]:
        """The weights under a prefix, without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}

    def close(self, found: Tensor, expected: Tensor, **other: float) -> None:
        """Compare within the case's own tolerance, and within its cosine where it gives one."""
        limits = self.facts["tolerance_float32"]
        atol = other.get("atol", limits.get("atol", 0.0))
        rtol = other.get("rtol", limits.get("rtol", 0.0))
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
        if "cosine_min" in limits:
            cosines = nn.functional.cosine_similarity(found, expected, dim=-1)
            assert cosines.min() >= limits["cosine_min"]


def open_clip_visual(case: Case) -> nn.Module:
    """open_clip's vision transformer of a case's sizes, with its weights."""
    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    from open_clip.transformer import QuickGELU, VisionTransformer

    tower, state = case.facts.get("tower") or {}, case.state("visual")
    width = state["class_embedding"].numel()
    visual = VisionTransformer(
        image_size=int((len(state["positional_embedding"]) - 1) ** 0.5) * state["conv1.weight"].shape[-1],
        patch_size=state["conv1.weight"].shape[-1],
        width=width,
        layers=1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.resblocks.")),
        heads=tower["heads"],
        mlp_ratio=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0] / width,
        output_dim=state["proj"].shape[1],
        act_layer=QuickGELU,
    )
    visual.load_state_dict(state)
    return visual.eval().requires_grad_(False)
