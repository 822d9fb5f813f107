from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import frozen_bytes, write_table
from torch.nn import functional

from ovseg.errors import ConfigError
from ovseg.heads.alignment import AlignmentHead
from ovseg.heads.base import IdentityHead
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.config import Schedule
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipes.alignment import AlignmentConfig, AlignmentTask, build_alignment


def settings(path: Path, **values: Any) -> AlignmentConfig:
    masks = values.pop("masks", ({"protocol": "folder", "path": str(path)},))
    schedule = Schedule(**{"steps": 3, "batch": 32, **values.pop("schedule", {})})
    return AlignmentConfig(
        masks=masks, **{"principal": 8, "schedule": schedule, "out": path.parent / "run", **values}
    )


def built(config: AlignmentConfig, segmenter: Segmenter, features: Path) -> AlignmentTask:
    return build_alignment(config, segmenter.model, FeatureCache(features), make_accelerator(config))


def test_training_the_alignment_leaves_the_encoders_as_they_are(
    small: Segmenter, folder: Path, tmp_path: Path
) -> None:
    config = settings(folder)
    before = frozen_bytes(small.model)
    task = built(config, small, tmp_path / "features")
    start = {name: value.clone() for name, value in task.state_dict().items()}
    steps = list(train_steps(task, config, tmp_path / "run"))
    assert len(steps) == 3 and all(np.isfinite(loss) for _, loss in steps)
    assert frozen_bytes(small.model) == before
    after = task.state_dict()
    assert not torch.equal(after["visual.weight"], start["visual.weight"])
    assert not torch.equal(after["log_evidence"], start["log_evidence"])
    for name, table in task.head.named_buffers():
        assert torch.equal(table, dict(small.model.head.named_buffers())[name])  # type: ignore[attr-defined]
    task.export(tmp_path / "head.safetensors", metadata={})
    _check_export(task, AlignmentHead.load(tmp_path / "head.safetensors"), config)


def _check_export(task: Any, head: AlignmentHead, config: AlignmentConfig) -> None:
    """The exported layer gives on features what the trained one gives on their principal axes."""
    cells = torch.randn(6, task.axes.shape[0], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = task.visual((cells - task.mean) @ task.axes)
        torch.testing.assert_close(head.visual(cells), expected, atol=2e-2, rtol=2e-2)
    assert task.axes.shape[1] == config.principal


def test_cells_are_computed_once_and_named_photos_too(
    small: Segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(folder / "images" / "names.csv", "name", [("0.png", "cat"), ("2.png", "dog")])
    config = settings(folder, named=({"table": table},))
    first = built(config, small, tmp_path / "features")
    monkeypatch.setattr("ovseg.training.cells.cell_features", lambda *_, **__: pytest.fail("computed"))
    second = built(config, small, tmp_path / "features")
    assert first.manifest == second.manifest and [entry["images"] for entry in first.manifest] == [3, 2]
    for one, other in ((first.sets, second.sets), (first.named, second.named)):
        for before, after in zip(one, other, strict=True):
            tensors = [(value, vars(after)[name]) for name, value in vars(before).items() if name != "weight"]
            assert all(torch.equal(value, same) for value, same in tensors) and len(tensors) >= 4


def test_the_weights_of_the_task_are_those_of_its_maps_and_its_head(
    small: Segmenter, folder: Path, tmp_path: Path
) -> None:
    task = built(settings(folder), small, tmp_path / "features")
    own = {"visual.weight", "visual.bias", "log_scale", "log_evidence"}
    rest = {name for name in task.state_dict() if not name.startswith(("head.", "textual."))}
    assert rest == own


def test_the_head_is_also_written_where_the_file_says(small: Segmenter, folder: Path, tmp_path: Path) -> None:
    task = built(settings(folder, export=tmp_path / "there" / "head.safetensors"), small, tmp_path / "features")
    task.export(tmp_path / "run" / "head.safetensors", metadata={"recipe": "alignment"})
    assert (tmp_path / "there/head.safetensors").read_bytes() == (tmp_path / "run/head.safetensors").read_bytes()


def test_held_out_classes_are_not_trained_on(small: Segmenter, folder: Path, tmp_path: Path) -> None:
    masks = {"protocol": "folder", "path": folder, "held_out_classes": ("cat",)}
    task = built(settings(folder, masks=(masks,)), small, tmp_path / "features")
    (cells,) = task.sets
    assert len(cells.text) == 2 and int(cells.classes.max()) == 1


def test_the_names_of_two_sets_compete_only_with_their_own(small: Segmenter, folder: Path, tmp_path: Path) -> None:
    masks = [
        {"protocol": "folder", "path": folder},
        {"protocol": "folder", "path": folder, "held_out_classes": ("cat",), "weight": 0.5, "every": 2},
    ]
    task = built(settings(folder, masks=masks), small, tmp_path / "features")
    first, second = task.sets
    assert [len(first.text), len(second.text)] == [3, 2]
    assert len(second.classes) < len(first.classes)
    alone = [_loss_of(task, cells) for cells in (first, second)]
    both = float(task(torch.Generator().manual_seed(0), 2000).detach())
    assert both == pytest.approx(alone[0] + 0.5 * alone[1], rel=0.2)


def test_entries_with_the_same_classes_and_weight_are_one_set(
    small: Segmenter, folder: Path, tmp_path: Path
) -> None:
    whole = {"protocol": "folder", "path": folder, "held_out_classes": ("cat",)}
    more = {"protocol": "folder", "path": folder, "every": 2}
    task = built(settings(folder, masks=[whole, more]), small, tmp_path / "features")
    (cells,) = task.sets
    one = built(settings(folder, masks=[whole]), small, tmp_path / "features").sets[0]
    other = built(settings(folder, masks=[more]), small, tmp_path / "features").sets[0]
    assert [len(each.text) for each in (cells, one, other)] == [3, 2, 3]  # a name that either shows
    assert len(cells.classes) == len(one.classes) + len(other.classes)
    assert [row["classes"] for row in task.manifest] == [3, 3]


def _loss_of(task: Any, cells: Any) -> float:
    """The cross-entropy of one set by itself, over many draws, one vector after the other."""
    generator = torch.Generator().manual_seed(1)
    losses = []
    for row in cells.draw(generator, 300).tolist():
        pixel = functional.normalize(task.visual(cells.reduced[row]), dim=0)
        names = functional.normalize(task.textual(cells.text), dim=1)
        logits = task.log_scale.exp() * names @ pixel + cells.evidence[row].float() @ task.log_evidence.exp()
        losses.append(float((logits.logsumexp(0) - logits[cells.classes[row]]).detach()))
    return float(np.mean(losses))


def test_an_unknown_held_out_class_is_named(small: Segmenter, folder: Path, tmp_path: Path) -> None:
    masks = {"protocol": "folder", "path": folder, "held_out_classes": ("lynx",)}
    with pytest.raises(ConfigError, match="no class \\['lynx'\\] in 'folder'"):
        built(settings(folder, masks=(masks,)), small, tmp_path)


def test_a_model_without_an_alignment_is_refused(small: Segmenter, tmp_path: Path) -> None:
    other = Segmenter(replace(small.model, head=IdentityHead("clip")), device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="trains models like 'mini'"):
        built(settings(tmp_path), other, tmp_path)
