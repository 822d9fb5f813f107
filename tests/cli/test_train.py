from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ovseg import training
from ovseg.cli import build_app, main
from ovseg.errors import ConfigError
from ovseg.training import TrainingConfig

RECIPE = "masks:\n  - {protocol: folder, path: data}\nschedule:\n  steps: 7\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), ["train", *map(str, arguments)])


def test_recipes_are_listed() -> None:
    assert "mini" in invoke("--list").stdout.split()


def test_a_typo_in_the_file_is_named_with_the_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("steps", "stepps"))
    error = invoke(path).exception
    assert isinstance(error, ConfigError)
    assert str(error) == f"{path}: unknown key 'schedule.stepps'; did you mean 'steps'?"


def test_a_typo_in_a_setting_is_named(recipe: Path) -> None:
    error = invoke(recipe, "--set", "schedule.bach=4").exception
    assert isinstance(error, ConfigError)
    assert "unknown key 'schedule.bach'; did you mean 'batch'?" in str(error)


@pytest.mark.parametrize("setting", ["schedule.steps", "=4"])
def test_a_setting_without_key_and_value_is_refused(recipe: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"--set expects key=value, got '{setting}'"):
        CliRunner().invoke(build_app(), ["train", str(recipe), "--set", setting], catch_exceptions=False)


def test_a_setting_whose_value_is_no_yaml_is_refused(recipe: Path) -> None:
    error = invoke(recipe, "--set", "views=[1").exception
    assert isinstance(error, ConfigError) and "--set expects a value in YAML, got 'views=[1'" in str(error)


def test_an_ill_typed_value_is_named(recipe: Path) -> None:
    assert "'schedule.steps'" in str(invoke(recipe, "--set", "schedule.steps=many").exception)


def test_an_unknown_recipe_offers_the_nearest() -> None:
    assert "did you mean 'mini'" in str(invoke("minni").exception)


def test_settings_reach_the_run(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[TrainingConfig] = []

    def run(config: TrainingConfig, *, progress: object) -> Path:
        runs.append(config)
        return config.out

    monkeypatch.setattr(training, "train", run)
    shown = invoke(recipe, "--set", "schedule.learning_rate=0.01", "--set", f"out={tmp_path / 'run'}")
    assert shown.exit_code == 0
    assert shown.stdout.strip() == str(tmp_path / "run")
    assert (runs[0].schedule.steps, runs[0].schedule.learning_rate) == (7, 0.01)


def test_a_users_error_ends_with_two_and_one_line(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ovseg", "train", str(recipe), "--set", "nonsense=1"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("error: ") and "unknown key 'nonsense'" in shown and "\n" not in shown
