from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.toy import make_segmenter
from helpers.training import (
    SMALL,
    built,
    head_weights,
    losses,
    recipe,
    same_weights,
    write_masks,
    write_pseudo_labels,
    write_table,
)
from PIL import Image

import ovseg
import ovseg.files
from ovseg.bank.store import writing
from ovseg.errors import ConfigError, OutputError
from ovseg.heads.registry import HeadConfig
from ovseg.journal import Journal, read_journal
from ovseg.models.model import Model
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training import train
from ovseg.training.checkpoint import BEST, CHECKPOINT, METRICS, TrainingError
from ovseg.training.config import Schedule, TrainingConfig, Validation
from ovseg.training.data import PseudoLabels
from ovseg.training.recipes.alignment import AlignmentConfig
from ovseg.training.recipes.captions import CaptionSchedule, CaptionsConfig
from ovseg.training.runs import segmenter_of

COLOURS = ("blue", "black", "yellow")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Model]:
    """Makes runs use the toy model, with its configuration changed as given."""

    def use(weights: str = "toy-weights", **changes: Any) -> Model:
        model = make_segmenter(weights).model
        model = replace(model, config=model.config.model_copy(update=changes))
        monkeypatch.setattr("ovseg.training.runs.trainable_model", lambda _: model)
        return model

    return use


@pytest.fixture
def mini_runs(small: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    monkeypatch.setattr("ovseg.training.runs.trainable_model", lambda _: small.model)
    return small


def state_of(out: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of a run folder: its bytes and when it was written."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", SMALL)
def test_a_run_folder_is_a_model(kind: str, mini_runs: Segmenter, folder: Path) -> None:
    config = recipe(folder, kind)
    out = train(config)
    loaded = ovseg.load(str(out), device="cpu")
    assert loaded.info["weights"] != mini_runs.info["weights"]
    task = built(config, mini_runs.model)
    state = torch.load(out / CHECKPOINT, weights_only=True)
    task.load_state_dict(state["task"], strict=False)
    image = folder / "images" / "0.png"
    own = segmenter_of(mini_runs.model, task.eval()).segment(image, ["sky", "road"], keep_scores=True)
    again = loaded.segment(image, ["sky", "road"], keep_scores=True)
    assert own.scores is not None and again.scores is not None
    assert np.abs(own.scores.astype(float) - again.scores).max() < 0.02  # weights are stored in half precision
    stated = json.loads((out / "config.json").read_text())
    assert type(config).model_validate(stated) == config
    (entry,) = json.loads((out / "data.json").read_text())
    assert (entry["images"], entry["classes"], entry["data"]["path"]) == (3, 3, str(folder))
    assert f"- 3 images, 3 classes: `{folder}`" in (out / "README.md").read_text()
    assert "torch" in json.loads((out / "environment.json").read_text())["versions"]
    with Image.open(out / "curves.png") as curves:
        assert curves.size == (720, 400)


def test_a_trained_model_is_not_trained_on_again(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    config = make_segmenter().model.config.model_copy(update={"head": HeadConfig(kind="adapter")})
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with pytest.raises(ConfigError, match="expected a model without a trained head"):
        train(recipe(folder, model=str(path)))


def test_the_best_weights_by_the_projects_own_evaluation_are_kept(
    toy: Callable[..., Model], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy()
    scores = iter([0.2, 0.6, 0.4])
    seen: list[dict[str, torch.Tensor]] = []

    def score(config: Any, model: Any, task: Any) -> Callable[[], float]:
        def validate() -> float:
            seen.append({name: value.clone() for name, value in task.head.state_dict().items()})
            return next(scores)

        return validate

    monkeypatch.setattr("ovseg.training.runs.validator", score)
    out = train(recipe(folder, validation=Validation(protocol="folder", path=str(folder), every=2)))
    rows = read_journal(out / METRICS)
    assert [(row["step"], row["score"]) for row in rows if "score" in row] == [(2, 0.2), (4, 0.6), (6, 0.4)]
    for name, value in head_weights(out).items():
        torch.testing.assert_close(value, seen[1][name].half().float())
    assert "mIoU 60.0 on `folder`" in (out / "README.md").read_text()
    assert "step 4, the best of 3 looks" in (out / "README.md").read_text()


def test_runs_are_validated_by_the_projects_own_evaluation(toy: Callable[..., Model], folder: Path) -> None:
    model = toy()
    write_masks(folder, seed=0, names=COLOURS)
    config = recipe(folder, validation=Validation(protocol="folder", path=str(folder), every=3))
    out = train(config)
    found = [row["score"] for row in read_journal(out / METRICS) if "score" in row]
    task = built(config, model)
    task.head.load_state_dict(head_weights(out))
    own = ovseg.evaluate(segmenter_of(model, task.eval()), "folder", data=str(folder)).mean_iou
    assert len(found) == 2 and max(found) == pytest.approx(own, abs=0.02) and own > 0


def test_a_recipe_without_a_head_to_score_is_not_validated(folder: Path) -> None:
    validation = Validation(protocol="folder", path=str(folder))
    config = AlignmentConfig(masks=({"protocol": "folder", "path": str(folder)},), validation=validation)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="recipe 'alignment' cannot be validated while it trains; remove"):
        train(config)


# what is kept is known by its content


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_run_on_replaced_files_of_the_same_names_learns_from_the_new_ones(
    toy: Callable[..., Model], folder: Path, tmp_path: Path, part: str
) -> None:
    toy()
    write_masks(folder, seed=0, names=COLOURS)
    shared = {"features": tmp_path / "features", "views": 2}
    first = train(recipe(folder, out=tmp_path / "first", **shared))
    write_masks(folder, seed=1, names=COLOURS, parts=[part])
    second = train(recipe(folder, out=tmp_path / "second", **shared))
    fresh = train(recipe(folder, out=tmp_path / "fresh", views=2))
    assert not same_weights(first, second)
    assert same_weights(second, fresh) and losses(second) == losses(fresh)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_folder_that_holds_a_run_on_other_files_is_left_alone_and_both_are_named(
    toy: Callable[..., Model], folder: Path, part: str, finished: bool
) -> None:
    toy()
    config = recipe(folder)
    out = train(config)
    if not finished:
        (out / "result.json").unlink()
    write_masks(folder, seed=1, names=("sky", "road", "cat"), parts=[part])
    before = state_of(out)
    told = r"of another run: content.data.0 '3 images of content \w+' before and '3 images of content \w+' now"
    with pytest.raises(TrainingError, match=told):
        train(config)
    assert state_of(out) == before


def test_a_finished_run_says_so_and_does_nothing(
    toy: Callable[..., Model], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy()
    config = recipe(folder)
    out = train(config)
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))  # touched, not changed
    before = state_of(out)
    assert train(config, progress=True) == out
    assert state_of(out) == before
    assert "finished before" in capsys.readouterr().err


def test_a_finished_run_without_its_weights_writes_them_again(toy: Callable[..., Model], folder: Path) -> None:
    toy()
    config = recipe(folder)
    out = train(config)
    before = head_weights(out)
    (out / "head.safetensors").unlink()
    train(config)
    assert all(torch.equal(value, before[name]) for name, value in head_weights(out).items())


@pytest.mark.parametrize("part", ["labels", "confidence", "labels.json"])
def test_a_run_on_other_pseudo_labels_is_another_run(toy: Callable[..., Model], folder: Path, part: str) -> None:
    toy()
    root = write_pseudo_labels(folder)
    config = recipe(folder, data=(PseudoLabels(pseudo_labels=root, images=folder.parent),))
    train(config)
    if part == "labels.json":
        stated = json.loads((root / part).read_text())
        (root / part).write_text(json.dumps({**stated, "synonyms": {"sky": ["clouds"]}}))
    else:
        file = root / part / "0000001.png"
        Image.fromarray(np.asarray(Image.open(file)) // 2).save(file)
    with pytest.raises(TrainingError, match=r"content\.data\.0 '3 images"):
        train(config)


def test_an_edited_prompt_template_makes_another_run(
    toy: Callable[..., Model], folder: Path, tmp_path: Path
) -> None:
    templates = tmp_path / "templates.yaml"
    templates.write_text("source: test\ntemplates: ['{}']\n")
    toy(templates=str(templates))
    train(recipe(folder))
    templates.write_text("source: test\ntemplates: ['a {}', 'the {}']\n")
    with pytest.raises(TrainingError, match=r"of another run: templates '\w+' before and '\w+' now"):
        train(recipe(folder))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"logit_scale": 30.0}, r"model\.logit_scale 20\.0 before and 30\.0 now"),
        ({"smoothing": 0.1}, r"model\.smoothing None before and 0\.1 now"),
        ({"weights": "other"}, r"weights\.image 'toy-weights' before and 'other' now"),
    ],
)
def test_an_edited_model_makes_another_run(
    toy: Callable[..., Model], folder: Path, changes: dict[str, Any], told: str
) -> None:
    toy()
    train(recipe(folder))
    toy(**changes)
    with pytest.raises(TrainingError, match=told):
        train(recipe(folder))


def test_another_configuration_and_another_validation_set_make_another_run(
    toy: Callable[..., Model], folder: Path, tmp_path: Path
) -> None:
    toy()
    other = write_masks(tmp_path / "val", seed=1, names=("sky", "road", "cat"))
    validation = Validation(protocol="folder", path=str(other), every=6)
    train(recipe(folder, validation=validation))
    with pytest.raises(TrainingError, match=r"schedule\.steps 6 before and 5 now"):
        train(recipe(folder, validation=validation, schedule={"steps": 5}))
    write_masks(other, seed=2, names=("sky", "road", "cat"), parts=["masks"])
    with pytest.raises(TrainingError, match=r"content\.validation '3 images"):
        train(recipe(folder, validation=validation))


def test_a_run_that_is_refused_changes_nothing_of_the_one_that_is_there(
    toy: Callable[..., Model], folder: Path
) -> None:
    toy()
    train(recipe(folder))
    before = state_of(folder.parent / "run")
    with pytest.raises(TrainingError, match="seed 0 before and 1 now"):
        train(recipe(folder, seed=1))
    assert state_of(folder.parent / "run") == before


def test_captions_are_another_run_with_another_photo_or_sentence(toy: Callable[..., Model], folder: Path) -> None:
    toy()
    rows = [(f"{number}.png", word) for number, word in enumerate(("red", "blue", "a green cat"))]
    table = write_table(folder / "captions.csv", "caption", rows)
    schedule = CaptionSchedule(steps=2, batch=2)
    config = CaptionsConfig(table=table, held_out=0.0, schedule=schedule, out=folder.parent / "run")
    train(config)
    write_table(table, "caption", [("0.png", "white"), *rows[1:]])
    with pytest.raises(TrainingError, match=r"content\.table '3 images"):
        train(config)
    write_table(table, "caption", rows)
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(folder / "images" / "1.png")
    with pytest.raises(TrainingError, match=r"content\.table '3 images"):
        train(config)


def aligned(folder: Path) -> AlignmentConfig:
    return AlignmentConfig(
        masks=({"protocol": "folder", "path": str(folder)},),  # type: ignore[arg-type]
        named=({"table": folder / "names.csv"},),  # type: ignore[arg-type]
        principal=8,
        schedule=Schedule(steps=2, batch=16),
        out=folder.parent / "run",
    )


def test_an_alignment_may_replace_the_head_of_its_own_model_but_not_its_data(
    mini_runs: Segmenter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(folder / "names.csv", "name", [("images/0.png", "cat"), ("images/2.png", "dog")])
    out = train(aligned(folder))
    before = state_of(out)
    replaced = replace(mini_runs.model, weights={**mini_runs.model.weights, "head": "the new one"})
    monkeypatch.setattr("ovseg.training.runs.trainable_model", lambda _: replaced)
    train(aligned(folder))
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(folder / "masks" / "1.png")
    with pytest.raises(TrainingError, match=r"content\.masks\.0 '3 images"):
        train(aligned(folder))
    write_masks(folder, seed=0, names=("sky", "road", "cat"))
    write_table(folder / "names.csv", "name", [("images/0.png", "lynx")])
    with pytest.raises(TrainingError, match=r"content\.named\.0 '2 images .* and '1 images"):
        train(aligned(folder))
    assert state_of(out) == before


# more steps


KINDS = ("one-cycle", "cosine", "poly")


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_goes_on_with_the_rates_of_its_new_number_of_steps(
    toy: Callable[..., Model], folder: Path, tmp_path: Path, kind: str
) -> None:
    toy()
    schedule = {"kind": kind, "ema": 0.9}
    out = train(recipe(folder, schedule={**schedule, "steps": 4}))
    first = read_journal(out / METRICS)
    assert train(recipe(folder, schedule={**schedule, "steps": 9})) == out
    rows = read_journal(out / METRICS)
    assert [row["step"] for row in rows] == list(range(1, 10)) and rows[:4] == first
    whole = read_journal(train(recipe(folder, out=tmp_path / "whole", schedule={**schedule, "steps": 9})) / METRICS)
    rates = [[row["learning_rate"] for row in some] for some in (rows, whole)]
    assert rates[0][4:] == pytest.approx(rates[1][4:], rel=1e-12)  # those of nine steps
    assert rates[0][:4] != pytest.approx(rates[1][:4])  # those of four
    result = json.loads((out / "result.json").read_text())
    assert (result["steps"], result["before"]) == (9, [4])
    told = f"finished at step 4 and given more; from there on the {kind} learning rates are those of 9 steps"
    assert told in (out / "README.md").read_text()
    assert json.loads((out / "config.json").read_text())["schedule"]["steps"] == 9
    assert train(recipe(folder, schedule={**schedule, "steps": 11})) == out
    assert json.loads((out / "result.json").read_text())["before"] == [4, 9]


def test_going_on_leaves_weights_and_optimiser_as_they_were(toy: Callable[..., Model], folder: Path) -> None:
    toy()
    out = train(recipe(folder, schedule={"steps": 4}))
    before = torch.load(out / CHECKPOINT, weights_only=True)
    train(recipe(folder, schedule={"steps": 5}))
    after = torch.load(out / CHECKPOINT, weights_only=True)
    steps = [state["optimizer"]["state"][0]["step"].item() for state in (before, after)]
    assert steps == [4.0, 5.0]
    for name, value in before["task"].items():
        moved = (after["task"][name] - value).abs().max()
        assert moved < 0.02  # one step of AdamW at a rate of 0.01 at most, not a new start


def test_more_steps_that_are_interrupted_lose_and_repeat_nothing(
    toy: Callable[..., Model], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy()

    def config(steps: int, out: str = "run") -> TrainingConfig:
        return recipe(folder, out=tmp_path / out, schedule={"steps": steps}, save_every=3)

    whole = train(config(8, "whole")) if train(config(4, "whole")) else None
    train(config(4))
    for stopped in (5, 7):  # before the first new checkpoint, and after it
        _stop_at(stopped, config(8), monkeypatch)
        assert not (tmp_path / "run" / "result.json").exists()
        if stopped == 5:
            train(config(4))  # still the finished run of four steps
            assert [row["step"] for row in read_journal(tmp_path / "run" / METRICS)] == [1, 2, 3, 4]
            assert (tmp_path / "run" / "result.json").exists()
    with pytest.raises(TrainingError, match=r"schedule\.steps 8 before and 4 now"):
        train(config(4))
    with pytest.raises(
        TrainingError, match=r"of a run of 8 steps that stopped at step 6; finish it with schedule.steps=8"
    ):
        train(config(10))
    out = train(config(8))
    assert whole is not None and read_journal(out / METRICS) == read_journal(whole / METRICS)
    assert same_weights(out, whole)


def _stop_at(step: int, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is killed after it has written the line of ``step``."""
    append = Journal.append

    def once(journal: Journal, row: Any) -> None:
        append(journal, row)
        if row.get("step") == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", once)
        with pytest.raises(Killed):
            train(config)


def test_a_finished_run_without_its_checkpoint_cannot_go_on(toy: Callable[..., Model], folder: Path) -> None:
    toy()
    out = train(recipe(folder))
    (out / CHECKPOINT).unlink()
    before = state_of(out)
    with pytest.raises(TrainingError, match=r"holds a finished run without its 'last.pt', from which more steps"):
        train(recipe(folder, schedule={"steps": 9}))
    assert state_of(out) == before


def test_two_processes_never_write_one_run(toy: Callable[..., Model], folder: Path) -> None:
    toy()
    with (
        writing(folder.parent / "run", what="training run"),
        pytest.raises(OutputError, match="another process is writing the training run"),
    ):
        train(recipe(folder))
    train(recipe(folder))


# nothing is lost


class Killed(BaseException):
    """In place of SIGKILL."""


def killed_at(write: int, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the run ended before its ``write``-th file took its name; there it is killed."""
    rename, done = os.replace, 0

    def count(*arguments: Any) -> None:
        nonlocal done
        done += 1
        if done > write:
            raise Killed
        rename(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ovseg.files.os, "replace", count)
        try:
            train(config)
        except Killed:
            return False
    return True


@pytest.mark.slow
def test_a_run_that_is_killed_before_any_of_its_files_is_written_ends_as_if_it_had_not_been(
    toy: Callable[..., Model], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy()
    monkeypatch.setattr("ovseg.training.runs.environment", dict)  # asks git, which takes time
    monkeypatch.setattr("ovseg.training.runs.validator", lambda config, model, task: lambda: task.head.gain.item())
    for file in [*folder.rglob("[12].png")]:
        file.unlink()

    def config(out: Path) -> TrainingConfig:
        validation = Validation(protocol="folder", path=str(folder), every=1)
        return recipe(folder, out=out, validation=validation, save_every=1, schedule={"steps": 3, "ema": 0.9})

    whole = train(config(tmp_path / "whole"))
    ended, write = False, 0
    while not ended:
        out = tmp_path / f"killed-{write}"
        ended = killed_at(write, config(out), monkeypatch)
        assert (out / "result.json").is_file() == ended
        train(config(out))
        assert read_journal(out / METRICS) == read_journal(whole / METRICS)
        assert same_weights(out, whole)
        for name in (BEST, "config.json", "data.json", "environment.json", "curves.png", "README.md", "model.yaml"):
            assert (out / name).is_file()
        write += 1
    assert write > 12  # an entry of features, checkpoints, best weights and what a run leaves for people
