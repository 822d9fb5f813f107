from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.errors import ConfigError, DatasetError
from ovseg.heads.alignment import AlignmentHead
from ovseg.heads.base import IdentityHead
from ovseg.models.model import Model
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.config import AlignmentConfig, NamedData
from ovseg.training.features import FeatureCache, cell_classes
from ovseg.training.loop import CHECKPOINT, METRICS, TrainingError, train_steps
from ovseg.training.recipes.alignment import build_alignment, named_features


class Toy(nn.Module):
    """A line fitted to noisy points, with dropout-like noise drawn from the run's generator."""

    def __init__(self, *, broken_from: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.calls = 0
        self.broken_from = broken_from

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        inputs = torch.randn(count, 4, generator=generator)
        targets = inputs @ torch.tensor([1.0, -2.0, 0.5, 3.0])
        loss = (inputs @ self.weight - targets).square().mean()
        self.calls += 1
        broken = self.broken_from is not None and self.calls >= self.broken_from
        return loss * float("nan") if broken else loss

    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"params": [self.weight], "lr": 0.3, "weight_decay": 0.0}]


def settings(path: Path, **values: Any) -> AlignmentConfig:
    schedule = {"steps": 20, "batch": 16, **values.pop("schedule", {})}
    return AlignmentConfig(
        masks=({"protocol": "folder", "path": path},),
        **{"save_every": 5, "schedule": schedule, "out": path / "run", **values},
    )


def losses(path: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (path / METRICS).read_text().splitlines()]


def test_training_lowers_the_loss_and_writes_it_down(tmp_path: Path) -> None:
    done = list(train_steps(Toy(), settings(tmp_path), tmp_path))
    assert [step for step, _ in done] == list(range(1, 21))
    assert done[-1][1] < done[0][1] / 10
    assert losses(tmp_path) == pytest.approx([loss for _, loss in done])


def test_a_finished_task_has_the_running_mean_of_its_weights(tmp_path: Path) -> None:
    task, decay, mean = Toy(), 0.9, torch.zeros(4)
    for step, _ in train_steps(task, settings(tmp_path, schedule={"ema": decay}), tmp_path):
        share = min(decay, (1 + step) / (10 + step))
        mean = share * mean + (1 - share) * task.weight.detach()
        last = task.weight.detach().clone()
    torch.testing.assert_close(task.weight.detach(), mean)
    assert not torch.allclose(mean, last)
    assert torch.equal(task.frozen, torch.ones(4))


@pytest.mark.parametrize("stopped_after", [5, 7, 13])
def test_a_resumed_run_has_the_losses_of_an_undisturbed_one(tmp_path: Path, stopped_after: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    config = settings(tmp_path)
    undisturbed = list(train_steps(Toy(), config, whole))
    for step, _ in train_steps(Toy(), config, parts):
        if step == stopped_after:
            break
    task = Toy()
    resumed = list(train_steps(task, config, parts))
    assert resumed[0][0] == stopped_after // 5 * 5 + 1
    assert resumed == undisturbed[resumed[0][0] - 1 :]
    assert losses(parts) == losses(whole)
    assert torch.equal(task.frozen, torch.ones(4))


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    list(train_steps(Toy(), settings(tmp_path), tmp_path))
    assert list(train_steps(Toy(), settings(tmp_path), tmp_path)) == []


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss of step 8 is nan \(batch 1\); .*last checkpoint is kept"):
        list(train_steps(Toy(broken_from=8), settings(tmp_path), tmp_path))
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["step"] == 5
    assert all(torch.isfinite(value).all() for value in state["task"].values())
    resumed = list(train_steps(Toy(), settings(tmp_path), tmp_path))
    assert resumed[0][0] == 6 and len(losses(tmp_path)) == 20


def test_the_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    list(train_steps(Toy(), settings(tmp_path), tmp_path))
    with pytest.raises(TrainingError, match="checkpoint of another configuration; choose another out folder"):
        list(train_steps(Toy(), settings(tmp_path, seed=1), tmp_path))


def test_two_half_batches_give_the_gradient_of_their_mean(tmp_path: Path) -> None:
    config = settings(tmp_path, schedule={"accumulate": 2, "steps": 3})
    done = list(train_steps(Toy(), config, tmp_path))
    assert len(done) == 3 and all(np.isfinite(loss) for _, loss in done)


def test_a_cell_has_the_class_that_covers_enough_of_it() -> None:
    truth = torch.full((4, 8), -1)
    truth[:, :3], truth[:, 4:6], truth[:, 6:] = 2, 0, 1
    assert cell_classes(truth, (1, 2), classes=3, coverage=0.55).tolist() == [2, -1]
    assert cell_classes(truth, (1, 2), classes=3, coverage=0.5).tolist()[0] == 2
    assert cell_classes(torch.full((4, 8), -1), (1, 2), classes=3, coverage=0.5).tolist() == [-1, -1]


def frozen_bytes(model: Model) -> dict[str, bytes]:
    modules = {"image": model.image, "text": model.text().model, "head": model.head}  # type: ignore[attr-defined]
    return {
        f"{part}.{name}": tensor.numpy().tobytes()
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def test_training_the_alignment_leaves_the_encoders_as_they_are(
    small: Segmenter, folder: Path, tmp_path: Path
) -> None:
    config = settings(folder, principal=8, schedule={"steps": 3, "batch": 32}, out=tmp_path / "run")
    before = frozen_bytes(small.model)
    task = build_alignment(config, small.model, FeatureCache(tmp_path / "features"))
    start = {name: value.clone() for name, value in task.state_dict().items()}
    (tmp_path / "run").mkdir()
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


def test_features_are_computed_once(
    small: Segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(folder, principal=8)
    cache = FeatureCache(tmp_path / "features")
    first = build_alignment(config, small.model, cache)
    monkeypatch.setattr("ovseg.training.recipes.alignment.cell_features", lambda *_: pytest.fail("computed again"))
    second = build_alignment(config, small.model, cache)
    (before,), (after,) = first.sets, second.sets
    assert torch.equal(before.evidence, after.evidence) and torch.equal(before.classes, after.classes)


def test_held_out_classes_are_not_trained_on(small: Segmenter, folder: Path, tmp_path: Path) -> None:
    masks = {"protocol": "folder", "path": folder, "held_out_classes": ("cat",)}
    config = settings(folder, principal=8).model_copy(update={"masks": (AlignmentConfig(masks=(masks,)).masks[0],)})
    task = build_alignment(config, small.model, FeatureCache(tmp_path / "features"))
    (cells,) = task.sets
    assert len(cells.text) == 2 and int(cells.classes.max()) == 1


def test_the_names_of_two_sets_compete_only_with_their_own(small: Segmenter, folder: Path, tmp_path: Path) -> None:
    masks = [
        {"protocol": "folder", "path": folder},
        {"protocol": "folder", "path": folder, "held_out_classes": ("cat",), "weight": 0.5, "every": 2},
    ]
    config = settings(folder, principal=8).model_copy(update={"masks": AlignmentConfig(masks=masks).masks})
    task = build_alignment(config, small.model, FeatureCache(tmp_path / "features"))
    first, second = task.sets
    assert [len(first.text), len(second.text)] == [3, 2]
    assert len(second.classes) < len(first.classes)
    alone = [_loss_of(task, cells) for cells in (first, second)]
    both = float(task(torch.Generator().manual_seed(0), 2000).detach())
    assert both == pytest.approx(alone[0] + 0.5 * alone[1], rel=0.2)


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
        build_alignment(AlignmentConfig(masks=(masks,)), small.model, FeatureCache(tmp_path))


def test_a_table_of_names_with_other_columns_is_refused(small: Segmenter, tmp_path: Path) -> None:
    table = tmp_path / "names.csv"
    table.write_text("file,caption\na.png,cat\n")
    with pytest.raises(DatasetError, match="must have the columns file and name, got file, caption"):
        named_features(NamedData(table=table), small.model, FeatureCache(tmp_path))


def test_a_model_without_an_alignment_is_refused(small: Segmenter, tmp_path: Path) -> None:
    model = replace(small.model, head=IdentityHead("clip"))
    with pytest.raises(ConfigError, match="trains models like 'mini'"):
        build_alignment(settings(tmp_path), model, FeatureCache(tmp_path))
