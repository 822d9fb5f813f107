from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import SMALL, built, frozen_bytes, losses, recipe, trained, write_pseudo_labels
from PIL import Image

from ovseg.errors import ConfigError, DatasetError, ModelError, SpaceError
from ovseg.pipeline.logits import class_logits
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.augment import nearest
from ovseg.training.checkpoint import TrainingError
from ovseg.training.data import PseudoLabels
from ovseg.training.features import FeatureCache
from ovseg.training.loop import train_steps
from ovseg.training.recipes.masks import best_of_classes, draw_classes, masks_identity, phrases_of
from ovseg.training.runs import segmenter_of
from ovseg.training.views import FINER
from ovseg.vocabulary.labels import Concept
from ovseg.weights import save_weights


@pytest.mark.parametrize("kind", SMALL)
def test_training_changes_the_head_and_not_one_byte_below_it(kind: str, small: Segmenter, folder: Path) -> None:
    before = frozen_bytes(small.model)
    config = recipe(folder, kind)
    task = built(config, small.model)
    start = {name: value.clone() for name, value in task.head.state_dict().items()}
    task = trained(config, small.model)
    assert frozen_bytes(small.model) == before
    for module in (small.model.image, small.model.head, small.model.text().model):  # type: ignore[attr-defined]
        assert all(parameter.grad is None for parameter in module.parameters())
    changed = [name for name, value in task.head.state_dict().items() if not torch.equal(value, start[name])]
    assert len(changed) >= len(start) - 2
    assert not {name for name in task.head.state_dict() if name.startswith("base")}


@pytest.mark.slow
def test_an_untrained_residual_head_answers_as_the_model_below(small: Segmenter, folder: Path) -> None:
    for kind in SMALL:
        settings: dict[str, Any] = {
            "denseclip": {"finest": 1, "gamma": 0.0},
            "fusioner": {"upsamplings": 0, "pixels": False},
        }
        task = built(recipe(folder, kind, settings=settings.get(kind, {})), small.model).eval()
        image = folder / "images" / "0.png"
        own = segmenter_of(small.model, task).segment(image, ["sky", "cat"])
        below = small.segment(image, ["sky", "cat"])
        np.testing.assert_allclose(own.score_map, below.score_map, atol=1e-3)


def test_training_from_the_cache_gives_the_losses_of_training_from_the_images(
    small: Segmenter, folder: Path, tmp_path: Path
) -> None:
    cached = recipe(folder, views=2, out=tmp_path / "cached")
    live = recipe(folder, views=2, out=tmp_path / "live", cache=False)
    trained(cached, small.model), trained(live, small.model)
    assert losses(cached.out) == pytest.approx(losses(live.out), rel=2e-3)


@pytest.mark.slow
def test_both_losses_fit_three_flat_classes(small: Segmenter, folder: Path) -> None:
    for loss in ("softmax", "binary"):
        config = recipe(folder, loss=loss, out=folder.parent / loss, schedule={"steps": 40})
        trained(config, small.model)
        found = losses(config.out)
        assert np.mean(found[-5:]) < np.mean(found[:3])


def test_the_classes_of_a_step_are_the_present_ones_and_no_held_out_one() -> None:
    truth = torch.tensor([[[3, 3, -1], [5, -2, 3]]])
    weights = torch.ones(8)
    weights[[0, 1]] = 0
    drawn, position = draw_classes(truth, weights, 5, torch.Generator().manual_seed(0))
    assert len(drawn) == 5 and {3, 5} <= set(drawn.tolist()) and not {0, 1} & set(drawn.tolist())
    three, five = drawn.tolist().index(3), drawn.tolist().index(5)
    assert position.tolist() == [[[three, three, -1], [five, -2, three]]]
    drawn, position = draw_classes(truth, weights, 1, torch.Generator().manual_seed(0))
    assert len(drawn) == 1 and set(position.flatten().tolist()) == {0, -1, -2}


def test_a_student_learns_from_pseudo_labels(small: Segmenter, folder: Path) -> None:
    data = PseudoLabels(pseudo_labels=write_pseudo_labels(folder), images=folder.parent)
    task = trained(recipe(folder, data=(data,)), small.model)
    assert task.manifest[0]["images"] == 3


def test_a_mask_id_outside_the_vocabulary_is_named_with_its_file(small: Segmenter, folder: Path) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[0, 0] = 9
    Image.fromarray(mask).save(folder / "masks" / "1.png")
    with pytest.raises(DatasetError, match=r"1\.png.*9"):
        built(recipe(folder), small.model)


def test_a_mask_of_another_size_is_named(small: Segmenter, folder: Path) -> None:
    Image.fromarray(np.zeros((64, 95), np.uint8)).save(folder / "masks" / "1.png")
    with pytest.raises(DatasetError, match="must have its image's size"):
        built(recipe(folder), small.model)


def test_a_head_for_another_space_is_refused(small: Segmenter, folder: Path) -> None:
    from ovseg.models.trained import with_head

    config = recipe(folder)
    task = trained(config, small.model)
    digest = task.export(config.out / "head.safetensors", metadata={})
    saved = task.settings.model_copy(update={"weights": str(config.out / "head.safetensors"), "sha256": digest})
    other: Any = type("Other", (), {"feature_space": "dino", "text_space": "bert", "space": "both"})()
    with pytest.raises(SpaceError, match=r"trained with feature space .* but this model has 'dino'"):
        with_head(replace(small.model, head=other), saved, device=torch.device("cpu"))
    save_weights({"other": torch.zeros(2)}, config.out / "head.safetensors")
    earlier = saved.model_copy(update={"sha256": ""})
    with pytest.raises(ModelError, match=r"weights of Adapter: .* by another version of ovseg: train them again"):
        with_head(small.model, earlier, device=torch.device("cpu"))
    (config.out / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        with_head(small.model, saved, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "form"), [("adapter", None), ("fusioner", "as released"), ("denseclip", "as released")]
)
def test_a_run_is_known_by_the_form_of_its_head(
    kind: str, form: str | None, small: Segmenter, folder: Path
) -> None:
    known = masks_identity(recipe(folder, kind), small.model, FeatureCache(None))
    assert known.get("form of the head") == form


def test_a_loss_that_is_no_number_names_the_views(small: Segmenter, folder: Path) -> None:
    config = recipe(folder)
    task = built(config, small.model)
    with torch.no_grad():
        next(task.head.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the loss of step 1 is nan \(batch 1 on views 0 of '\d'"):
        list(train_steps(task, config, config.out))


def test_typos_in_heads_and_settings_are_named(small: Segmenter, folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown head 'fusionar'; did you mean 'fusioner'"):
        built(recipe(folder, "fusionar"), small.model)
    with pytest.raises(ConfigError, match="unknown key 'hiden'; did you mean 'hidden'"):
        built(recipe(folder, settings={"hiden": 3}), small.model)
    with pytest.raises(ConfigError, match="recipe 'masks' cannot train a head of kind 'textmap'"):
        built(recipe(folder, "textmap"), small.model)


def test_a_student_is_asked_by_synonyms_as_its_teacher_was(small: Segmenter, folder: Path) -> None:
    root = write_pseudo_labels(folder, synonyms={"sky": ["clouds"], "cat": ["kitten"]})
    task = trained(recipe(folder, data=(PseudoLabels(pseudo_labels=root, images=folder.parent),)), small.model)
    assert task.examples[0].owner.tolist() == [0, 0, 1, 2, 2]
    rows, owner = phrases_of(torch.tensor([2, 0]), task.examples[0].owner)
    assert (rows.tolist(), owner.tolist()) == ([3, 4, 0, 1], [0, 0, 1, 1])
    logits = torch.randn(2, 4, 3, 5)
    best = best_of_classes(logits, owner, classes=2)
    torch.testing.assert_close(best, torch.stack([logits[:, :2].amax(1), logits[:, 2:].amax(1)], 1))


def test_training_grades_what_the_trained_model_answers(small: Segmenter, folder: Path) -> None:
    root = write_pseudo_labels(folder, synonyms={"sky": ["clouds"]})
    data = PseudoLabels(pseudo_labels=root, images=folder.parent, weighted=False)
    config = recipe(folder, data=(data,), crop=(80, 80), phrases=3, balance=0.0, schedule={"batch": 1})
    smoothed = replace(small.model, config=small.model.config.model_copy(update={"smoothing": 0.08}))
    task = built(config, smoothed).eval()
    loss = float(task(torch.Generator().manual_seed(0), 1).detach())
    image = task.examples[0].source.names.index(task.drawn.split("'")[1])
    below = Segmenter(smoothed, device=torch.device("cpu"))
    queries = below.queries([Concept("sky", synonyms=("clouds",)), "road", "cat"])
    seen = task.examples[0].source.load(image)
    logits = class_logits(below.model.head, below.encode(seen.image).features, queries, smoothing=0.08).values
    grid = (logits.shape[1] * FINER, logits.shape[2] * FINER)
    fine = torch.nn.functional.interpolate(logits[None], size=grid, mode="bilinear")
    truth = torch.from_numpy(nearest(seen.truth, grid)).long()[None]
    by_hand = torch.nn.functional.cross_entropy(fine, truth, ignore_index=-1)
    assert loss == pytest.approx(float(by_hand), rel=5e-3)  # features are cached in half precision
