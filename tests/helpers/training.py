"""Small training runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ovseg.heads.registry import HeadConfig
from ovseg.journal import read_journal
from ovseg.models.model import Model
from ovseg.training.checkpoint import METRICS
from ovseg.training.data import MaskData
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipes.masks import HeadSchedule, MasksConfig, MasksTask, build_masks

SMALL: dict[str, dict[str, Any]] = {
    "adapter": {"width": 8, "hidden": 16, "kernel": 3},
    "fusioner": {"width": 16, "layers": 1, "attention_heads": 2, "inner": 16, "upsamplings": 1},
    "denseclip": {"contexts": 0, "width": 16, "layers": 1, "pyramid": 4, "temperature": None},
}


def recipe(folder: Path, kind: str = "adapter", **values: Any) -> MasksConfig:
    """A few steps of the recipe ``masks`` on the images of ``folder``, into ``run`` beside it."""
    schedule = {"steps": 6, "batch": 2, "learning_rate": 0.01, "warmup": 1, **values.pop("schedule", {})}
    settings = {**SMALL.get(kind, {}), **values.pop("settings", {})}
    defaults: dict[str, Any] = {"crop": (4, 4), "out": folder.parent / "run", "save_every": 2}
    return MasksConfig(
        head=HeadConfig(kind=kind, settings=settings),
        data=values.pop("data", (MaskData(protocol="folder", path=str(folder)),)),
        schedule=HeadSchedule(**schedule),
        **{**defaults, **values},
    )


def built(config: MasksConfig, model: Model) -> MasksTask:
    return build_masks(config, model, FeatureCache(config.out / "features"), make_accelerator(config))


def trained(config: MasksConfig, model: Model) -> MasksTask:
    task = built(config, model)
    list(train_steps(task, config, config.out))
    return task


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_journal(out / METRICS)]


def frozen_bytes(model: Model) -> dict[str, bytes]:
    """Every byte of the weights below the trained head."""
    modules: dict[str, Any] = {"image": model.image, "text": model.text().model, "head": model.head}  # type: ignore[attr-defined]
    return {
        f"{part}.{name}": tensor.numpy().tobytes()
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def head_weights(out: Path) -> dict[str, torch.Tensor]:
    """The weights that a finished run wrote."""
    from ovseg.weights import load_weights

    return load_weights(out / json.loads((out / "result.json").read_text())["weights"])[0]


def same_weights(one: Path, other: Path) -> bool:
    first, second = head_weights(one), head_weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def write_masks(root: Path, *, seed: int, names: Sequence[str], parts: Sequence[str] = ("images", "masks")) -> Path:
    """Three images of three flat classes, with masks; another seed draws other shapes and other noise."""
    draw = np.random.default_rng(seed)
    palette = np.array([[90, 140, 220], [110, 110, 110], [200, 150, 90]])
    for part in parts:
        (root / part).mkdir(parents=True, exist_ok=True)
    for number in range(3):
        truth = np.zeros((64, 96), np.uint8)
        truth[32:] = 1
        top, left = 16 + 4 * seed, 32 - 4 * seed
        truth[top : 40 + 8 * number, left : left + 32] = 2
        image = (palette[truth] + draw.integers(0, 30, (*truth.shape, 3))).astype(np.uint8)
        for part, array in (("images", image), ("masks", truth)):
            if part in parts:
                Image.fromarray(array).save(root / part / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    return root


def write_pseudo_labels(folder: Path, **settings: Any) -> Path:
    """What ``ovseg pseudo-label`` would have written of the folder's own masks."""
    root = folder.parent / "pseudo"
    (root / "labels").mkdir(parents=True), (root / "confidence").mkdir()
    labels = (folder / "classes.txt").read_text().split()
    (root / "labels.json").write_text(json.dumps({"labels": labels, "ignore": 255, **settings}))
    lines: list[dict[str, Any]] = []
    for number in range(3):
        mask = np.array(Image.open(folder / "masks" / f"{number}.png"))
        mask[:8] = 255
        name = f"{number:07d}.png"
        Image.fromarray(mask).save(root / "labels" / name)
        Image.fromarray(np.full_like(mask, 51 * number)).save(root / "confidence" / name)
        pixels = np.bincount(mask.ravel(), minlength=256)[:3].tolist()
        lines.append(
            {"path": f"data/images/{number}.png", "name": name, "height": 64, "width": 96, "pixels": pixels}
        )
    lines.append({"path": "gone.png", "error": "cannot be read"})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "manifest-000.jsonl").write_text(text + '{"path": "cut o')
    return root


def write_table(path: Path, column: str, rows: Sequence[tuple[str, str]]) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", column])
        writer.writerows(rows)
    return path
