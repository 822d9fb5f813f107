from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ovseg
from ovseg.errors import ConfigError, DatasetError, ModelError, SpaceError
from ovseg.heads.registry import HeadConfig
from ovseg.pipeline.logits import class_logits
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.checkpoint import read_log
from ovseg.training.config import HeadSchedule, MaskData, MasksConfig, PseudoLabels, Validation, load_training
from ovseg.training.data import open_source
from ovseg.training.features import FINER, KEY
from ovseg.training.loop import METRICS, TrainingError, make_accelerator, train_steps
from ovseg.training.losses import binary_loss, softmax_loss
from ovseg.training.recipes.masks import MasksTask, ask, best_of_classes, build_masks, phrases_of
from ovseg.training.runs import finish, segmenter_of, train, validator
from ovseg.training.views import nearest
from ovseg.vocabulary.labels import Concept

SMALL: dict[str, dict[str, Any]] = {
    "adapter": {"width": 8, "hidden": 16, "kernel": 3},
    "fusioner": {"width": 16, "layers": 1, "attention_heads": 2, "inner": 16, "upsamplings": 1},
    "denseclip": {"contexts": 0, "width": 16, "layers": 1, "pyramid": 4, "temperature": None},
}


def recipe(folder: Path, kind: str = "adapter", **values: Any) -> MasksConfig:
    schedule = {"steps": 6, "batch": 2, "learning_rate": 0.01, "warmup": 1, **values.pop("schedule", {})}
    settings = {**SMALL.get(kind, {}), **values.pop("settings", {})}
    defaults: dict[str, Any] = {"crop": (4, 4), "out": folder.parent / "run", "save_every": 2}
    return MasksConfig(
        head=HeadConfig(kind=kind, settings=settings),
        data=values.pop("data", (MaskData(protocol="folder", path=folder),)),
        schedule=HeadSchedule(**schedule),
        **{**defaults, **values},
    )


def built(config: MasksConfig, segmenter: Segmenter) -> MasksTask:
    return build_masks(config, segmenter.model, config.out / "features", make_accelerator(config))


def run(config: MasksConfig, segmenter: Segmenter) -> MasksTask:
    config.out.mkdir(exist_ok=True)
    task = built(config, segmenter)
    list(train_steps(task, config, config.out))
    return task


def frozen_bytes(segmenter: Segmenter) -> dict[str, bytes]:
    model = segmenter.model
    modules: dict[str, Any] = {"image": model.image, "text": model.text().model, "head": model.head}  # type: ignore[attr-defined]
    return {
        f"{part}.{name}": tensor.numpy().tobytes()
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("kind", SMALL)
def test_training_changes_the_head_and_not_one_byte_below_it(kind: str, small: Segmenter, folder: Path) -> None:
    before = frozen_bytes(small)
    config = recipe(folder, kind)
    task = built(config, small)
    start = {name: value.clone() for name, value in task.head.state_dict().items()}
    task = run(config, small)
    assert frozen_bytes(small) == before
    for module in (small.model.image, small.model.head, small.model.text().model):  # type: ignore[attr-defined]
        assert all(parameter.grad is None for parameter in module.parameters())
    changed = [name for name, value in task.head.state_dict().items() if not torch.equal(value, start[name])]
    assert len(changed) >= len(start) - 2
    assert not {name for name in task.head.state_dict() if name.startswith("base")}


@pytest.mark.parametrize("kind", SMALL)
def test_a_run_folder_is_a_model(kind: str, small: Segmenter, folder: Path) -> None:
    config = recipe(folder, kind)
    task = run(config, small)
    finish(config, small.model, task)
    loaded = ovseg.load(str(config.out), device="cpu")
    image = folder / "images" / "0.png"
    own = segmenter_of(small.model, task.eval()).segment(image, ["sky", "road"], keep_scores=True)
    again = loaded.segment(image, ["sky", "road"], keep_scores=True)
    assert own.scores is not None and again.scores is not None
    assert np.abs(own.scores.astype(float) - again.scores).max() < 0.02  # weights are stored in half precision
    assert loaded.info["weights"] != small.info["weights"]
    for name in ("README.md", "curves.png", "data.json", "config.json", "metrics.jsonl", "model.yaml"):
        assert (config.out / name).is_file() or name == "config.json"


def test_an_untrained_residual_head_answers_as_the_model_below(small: Segmenter, folder: Path) -> None:
    for kind in SMALL:
        settings: dict[str, Any] = {"denseclip": {"finest": 1, "gamma": 0.0}, "fusioner": {"upsamplings": 0}}
        task = built(recipe(folder, kind, settings=settings.get(kind, {})), small).eval()
        image = folder / "images" / "0.png"
        own = segmenter_of(small.model, task).segment(image, ["sky", "cat"])
        below = small.segment(image, ["sky", "cat"])
        np.testing.assert_allclose(own.score_map, below.score_map, atol=1e-3)


def test_training_from_the_cache_gives_the_losses_of_training_from_the_images(
    small: Segmenter, folder: Path, tmp_path: Path
) -> None:
    cached = recipe(folder, views=2, out=tmp_path / "cached")
    live = recipe(folder, views=2, out=tmp_path / "live", cache=False)
    run(cached, small), run(live, small)
    one, other = (read_log(config.out / METRICS) for config in (cached, live))
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in other], rel=2e-3)


def test_views_are_computed_once_and_shared_between_folds(
    small: Segmenter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(recipe(folder), small)
    monkeypatch.setattr("ovseg.training.recipes.masks.encode_image", lambda *_: pytest.fail("computed again"))
    built(recipe(folder), small)
    held = MaskData(protocol="folder", path=folder, folds=3, held_out=1, held_out_classes=("cat",))
    task = built(recipe(folder, data=(held,)), small)
    assert task.vocabularies[0].source.names == ("0", "2")
    assert task.vocabularies[0].weights[2] == 0


def test_features_of_another_encoder_are_refused(small: Segmenter, folder: Path) -> None:
    config = recipe(folder)
    task = built(config, small)
    cache = task.vocabularies[0].cache.folder
    assert cache is not None
    key = json.loads((cache / KEY).read_text())
    (cache / KEY).write_text(json.dumps({**key, "encoder": "dino@abc"}))
    with pytest.raises(ConfigError, match=r"were cached with encoder 'dino@abc', this run has .*remove the folder"):
        built(config, small)
    other = Segmenter(replace(small.model, weights={"image": "other"}), device=torch.device("cpu"))
    assert built(config, other).vocabularies[0].cache.folder != cache


def test_the_best_weights_by_the_projects_own_evaluation_are_kept(small: Segmenter, folder: Path) -> None:
    validation = Validation(protocol="folder", path=folder, every=3)
    config = recipe(folder, validation=validation, schedule={"ema": 0.5})
    config.out.mkdir()
    task = built(config, small)
    list(train_steps(task, config, config.out, validate=validator(config, small.model, task)))
    rows = read_log(config.out / METRICS)
    assert [row["step"] for row in rows if "score" in row] == [3, 6]
    assert all(0 <= row["score"] <= 1 for row in rows if "score" in row)
    finish(config, small.model, task)
    assert "the best of 2 looks" in (config.out / "README.md").read_text()


def test_both_losses_fit_three_flat_classes(small: Segmenter, folder: Path) -> None:
    for loss in ("softmax", "binary"):
        config = recipe(folder, loss=loss, out=folder.parent / loss, schedule={"steps": 40})
        run(config, small)
        found = [row["loss"] for row in read_log(config.out / METRICS)]
        assert np.mean(found[-5:]) < np.mean(found[:3])


def test_losses_equal_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, 4, generator=draw, dtype=torch.float64)
    truth = torch.randint(-2, 3, (2, 2, 4), generator=draw)
    weights, sure = torch.tensor([0.5, 1.0, 2.0]), torch.rand(2, 2, 4, generator=draw)
    softmax = [0.0, 0.0]
    binary = [0.0, 0.0]
    for image in range(2):
        for y in range(2):
            for x in range(4):
                label, certain = int(truth[image, y, x]), float(sure[image, y, x])
                row = logits[image, :, y, x].exp()
                if label >= 0:
                    softmax[0] -= float((row[label] / row.sum()).log()) * float(weights[label]) * certain
                    softmax[1] += float(weights[label]) * certain
                for phrase in range(3) if label != -1 else ():
                    chance = float(row[phrase] / (1 + row[phrase]))
                    factor = certain * (float(weights[phrase]) if phrase == label else 1.0)
                    binary[0] -= factor * float(np.log(chance if phrase == label else 1 - chance))
                    binary[1] += factor
    found = softmax_loss(logits, truth, weights=weights, confidence=sure)
    assert float(found) == pytest.approx(softmax[0] / softmax[1], rel=1e-5)
    found = binary_loss(logits, truth, weights=weights, confidence=sure)
    assert float(found) == pytest.approx(binary[0] / binary[1], rel=1e-5)


def test_what_is_asked_holds_the_present_classes_and_no_held_out_one() -> None:
    truth = torch.tensor([[[3, 3, -1], [5, -2, 3]]])
    weights = torch.ones(8)
    weights[[0, 1]] = 0
    asked, position = ask(truth, weights, 5, torch.Generator().manual_seed(0))
    assert len(asked) == 5 and {3, 5} <= set(asked.tolist()) and not {0, 1} & set(asked.tolist())
    three, five = asked.tolist().index(3), asked.tolist().index(5)
    assert position.tolist() == [[[three, three, -1], [five, -2, three]]]
    asked, position = ask(truth, weights, 1, torch.Generator().manual_seed(0))
    assert len(asked) == 1 and set(position.flatten().tolist()) == {0, -1, -2}


def pseudo_labels(folder: Path) -> Path:
    """What ``ovseg pseudo-label`` would have written of the folder's own masks."""
    root = folder.parent / "pseudo"
    (root / "labels").mkdir(parents=True), (root / "confidence").mkdir()
    (root / "labels.json").write_text(json.dumps({"labels": ["sky", "road", "cat"], "ignore": 255}))
    lines = []
    for number in range(3):
        mask = np.array(Image.open(folder / "masks" / f"{number}.png"))
        mask[:8] = 255
        name = f"{number:07d}.png"
        Image.fromarray(mask).save(root / "labels" / name)
        Image.fromarray(np.full_like(mask, 51 * number)).save(root / "confidence" / name)
        pixels = np.bincount(mask.ravel(), minlength=256)[:3].tolist()
        size = {"height": 64, "width": 96}
        lines.append({"path": f"data/images/{number}.png", "name": name, **size, "pixels": pixels})
    lines.append({"path": "gone.png", "error": "cannot be read"})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "manifest-000.jsonl").write_text(text + '{"path": "cut o')
    return root


def test_a_student_learns_from_pseudo_labels_and_their_confidence(small: Segmenter, folder: Path) -> None:
    data = PseudoLabels(pseudo_labels=pseudo_labels(folder), images=folder.parent)
    source = open_source(data)
    assert source.names == tuple(f"data/images/{number}.png" for number in range(3))
    example = source.load(1)
    assert example.confidence is not None and (example.truth[:8] == -1).all() and example.confidence.max() == 51
    task = run(recipe(folder, data=(data,)), small)
    assert task.manifest[0]["images"] == 3


def test_a_pseudo_label_outside_the_vocabulary_is_named(folder: Path) -> None:
    root = pseudo_labels(folder)
    Image.fromarray(np.full((64, 96), 7, np.uint8)).save(root / "labels" / "0000001.png")
    source = open_source(PseudoLabels(pseudo_labels=root, images=folder.parent))
    with pytest.raises(DatasetError, match=r"0000001.png' holds label 7, but labels.json names 3 labels"):
        source.load(1)


def test_a_mask_id_outside_the_vocabulary_is_named_with_its_file(small: Segmenter, folder: Path) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[0, 0] = 9
    Image.fromarray(mask).save(folder / "masks" / "1.png")
    with pytest.raises(DatasetError, match=r"1\.png.*9"):
        built(recipe(folder), small)


def test_a_mask_of_another_size_is_named(small: Segmenter, folder: Path) -> None:
    Image.fromarray(np.zeros((64, 95), np.uint8)).save(folder / "masks" / "1.png")
    with pytest.raises(DatasetError, match="must have its image's size"):
        built(recipe(folder), small)


def test_holding_out_everything_is_refused(folder: Path) -> None:
    everything = MaskData(protocol="folder", path=folder, held_out_classes=("sky", "road", "cat"))
    with pytest.raises(DatasetError, match=r"nothing of .* is left to train on: 3 images and 0 classes"):
        open_source(everything)
    with pytest.raises(DatasetError, match="left to train on: 0 images"):
        open_source(MaskData(protocol="folder", path=folder, folds=1, held_out=0))


def test_a_fold_of_coco_20i_holds_out_its_twenty_names(tmp_path: Path) -> None:
    for place in ("images/val2017", "annotations/val2017"):
        (tmp_path / place).mkdir(parents=True)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images/val2017/1.jpg")
    mask = np.zeros((20, 30), np.uint8)  # 0 is person, of fold 0
    mask[:, 10:], mask[:, 20:] = 1, 200  # bicycle, of fold 1, and stuff
    Image.fromarray(mask).save(tmp_path / "annotations/val2017/1.png")
    source = open_source(MaskData(protocol="coco-20i", path=tmp_path, fold=0))
    truth = source.hide(source.load(0).truth)
    assert np.unique(truth[:, :10]).tolist() == [-1]
    assert source.phrases[int(truth[0, 15])] == "bicycle"
    assert np.unique(truth[:, 20:]).tolist() == [-2]
    with pytest.raises(ConfigError, match="has 4 folds, got fold 4"):
        open_source(MaskData(protocol="coco-20i", path=tmp_path, fold=4))


def test_a_head_for_another_space_is_refused(small: Segmenter, folder: Path) -> None:
    from ovseg.models.trained import with_head

    config = recipe(folder)
    task = run(config, small)
    digest = task.export(config.out / "head.safetensors", metadata={})
    saved = task.settings.model_copy(update={"weights": str(config.out / "head.safetensors"), "sha256": digest})
    other: Any = type("Other", (), {"feature_space": "dino", "text_space": "bert", "space": "both"})()
    with pytest.raises(SpaceError, match=r"trained with feature space .* but this model has 'dino'"):
        with_head(replace(small.model, head=other), saved, device=torch.device("cpu"))
    (config.out / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        with_head(small.model, saved, device=torch.device("cpu"))


def test_a_loss_that_is_no_number_names_the_views(small: Segmenter, folder: Path) -> None:
    config = recipe(folder)
    config.out.mkdir()
    task = built(config, small)
    with torch.no_grad():
        next(task.head.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the loss of step 1 is nan \(batch 1 on views 0 of '\d'"):
        list(train_steps(task, config, config.out))


def test_typos_in_heads_settings_and_recipes_are_named(small: Segmenter, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown head 'fusionar'; did you mean 'fusioner'"):
        built(recipe(folder, "fusionar"), small)
    with pytest.raises(ConfigError, match="unknown key 'hiden'; did you mean 'hidden'"):
        built(recipe(folder, settings={"hiden": 3}), small)
    with pytest.raises(ConfigError, match="recipe 'masks' cannot train a head of kind 'textmap'"):
        built(recipe(folder, "textmap"), small)
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: mask\n")
    with pytest.raises(ConfigError, match=r"unknown recipe in '.*': 'mask'; did you mean 'masks'"):
        load_training(path)


def test_a_trained_model_is_not_trained_on_again(small: Segmenter, folder: Path) -> None:
    config = recipe(folder)
    finish(config, small.model, run(config, small))
    again = recipe(folder, model=str(config.out), out=folder.parent / "again")
    with pytest.raises(ConfigError, match="expected a model without a trained head"):
        train(again)


def test_only_the_most_certain_pixels_of_each_label_are_kept(folder: Path) -> None:
    root = pseudo_labels(folder)
    draw = np.random.default_rng(0)
    sure = {name: draw.integers(0, 256, (64, 96), dtype=np.uint8) for name in ("0000000", "0000001", "0000002")}
    for name, values in sure.items():
        values[:, :48] //= 4  # what is on the left is never certain, and would be gone under one threshold
        Image.fromarray(values).save(root / "confidence" / f"{name}.png")
    source = open_source(PseudoLabels(pseudo_labels=root, images=folder.parent, keep=0.3, weighted=False))
    kept, all_ = np.zeros(3), np.zeros(3)
    for index in range(3):
        seen = source.load(index)
        truth, weight = source.select(source.hide(seen.truth), seen.confidence)
        assert weight is None
        kept += np.bincount(truth[truth >= 0], minlength=3)
        all_ += np.bincount(seen.truth[seen.truth >= 0], minlength=3)
    shown = all_ > 0
    assert kept[shown] / all_[shown] == pytest.approx(0.3, abs=0.03)


def test_a_student_is_asked_by_synonyms_as_its_teacher_was(small: Segmenter, folder: Path) -> None:
    root = pseudo_labels(folder)
    stated = json.loads((root / "labels.json").read_text())
    (root / "labels.json").write_text(json.dumps({**stated, "synonyms": {"sky": ["clouds"], "cat": ["kitten"]}}))
    task = run(recipe(folder, data=(PseudoLabels(pseudo_labels=root, images=folder.parent),)), small)
    assert task.vocabularies[0].owner.tolist() == [0, 0, 1, 2, 2]
    rows, owner = phrases_of(torch.tensor([2, 0]), task.vocabularies[0].owner)
    assert (rows.tolist(), owner.tolist()) == ([3, 4, 0, 1], [0, 0, 1, 1])
    logits = torch.randn(2, 4, 3, 5)
    best = best_of_classes(logits, owner, classes=2)
    torch.testing.assert_close(best, torch.stack([logits[:, :2].amax(1), logits[:, 2:].amax(1)], 1))


def test_training_grades_what_the_trained_model_answers(small: Segmenter, folder: Path) -> None:
    root = pseudo_labels(folder)
    stated = json.loads((root / "labels.json").read_text())
    (root / "labels.json").write_text(json.dumps({**stated, "synonyms": {"sky": ["clouds"]}}))
    data = PseudoLabels(pseudo_labels=root, images=folder.parent, weighted=False)
    config = recipe(folder, data=(data,), crop=(80, 80), phrases=3, balance=0.0, schedule={"batch": 1})
    smoothed = replace(small.model, config=small.model.config.model_copy(update={"smoothing": 0.08}))
    task = built(config, Segmenter(smoothed, device=torch.device("cpu"))).eval()
    loss = float(task(torch.Generator().manual_seed(0), 1).detach())
    image = task.vocabularies[0].source.names.index(task.drawn.split("'")[1])
    below = Segmenter(smoothed, device=torch.device("cpu"))
    queries = below.queries([Concept("sky", synonyms=("clouds",)), "road", "cat"])
    seen = task.vocabularies[0].source.load(image)
    logits = class_logits(below.model.head, below.encode(seen.image).features, queries, smoothing=0.08).values
    grid = (logits.shape[1] * FINER, logits.shape[2] * FINER)
    fine = torch.nn.functional.interpolate(logits[None], size=grid, mode="bilinear")
    truth = torch.from_numpy(nearest(seen.truth, grid)).long()[None]
    by_hand = torch.nn.functional.cross_entropy(fine, truth, ignore_index=-1)
    assert loss == pytest.approx(float(by_hand), rel=5e-3)  # features are cached in half precision
