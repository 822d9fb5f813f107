import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import ovseg
from ovseg.cli import COMMANDS, build_app
from ovseg.cli.pictures import save_picture
from ovseg.errors import OutputError


@dataclass
class Info:
    name: str
    commercial: bool
    task: str = "segment"
    parameters: float = 86.2  # millions
    megabytes: float = 345.2
    license: str = "MIT"
    gated: bool = False
    local: bool = True
    summary: str = "Fine borders; for things."


@pytest.fixture(autouse=True)
def two_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovseg, "list_models", lambda: [Info("mini", True), Info("closed", False)], raising=False)


def test_building_the_app_imports_nothing_heavy() -> None:
    code = (
        "import sys, ovseg.cli; ovseg.cli.build_app(); "
        "sys.exit(bool({'torch', 'numpy', 'PIL', 'rich', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["ovseg", "ovseg.cli"])
def test_the_package_runs_as_a_module_and_prints_its_version(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"ovseg {ovseg.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(build_app(), [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: ovseg {command}" in shown.stdout


def test_help_shows_the_extra_that_a_command_needs() -> None:
    shown = CliRunner().invoke(build_app(), ["serve", "--help"]).stdout
    assert "pip install 'ovseg[serve]'" in " ".join(shown.split())


def test_models_are_listed_as_a_table() -> None:
    shown = CliRunner().invoke(build_app(), ["models"])
    assert shown.exit_code == 0
    for text in ("mini", "closed", "86 M", "345", "MIT", "yes", "no", "Fine borders; for things."):
        assert text in shown.stdout


def test_models_are_listed_as_json_and_filtered_by_licence() -> None:
    shown = CliRunner().invoke(build_app(), ["models", "--json", "--commercial-only"])
    (only,) = json.loads(shown.stdout)
    assert only["name"] == "mini"
    assert only["parameters"] == 86.2 and only["summary"] == "Fine borders; for things."


def test_fetching_the_embedded_model_needs_no_network() -> None:
    shown = CliRunner().invoke(build_app(), ["models", "fetch", "mini"])
    assert shown.exit_code == 0
    assert shown.stdout.strip() == "the weights of 'mini' come with the package"


def test_fetching_an_unknown_model_offers_the_nearest() -> None:
    shown = CliRunner().invoke(build_app(), ["models", "fetch", "minni"])
    assert "did you mean 'mini'" in str(shown.exception)


def test_fetch_prints_where_the_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ovseg.models import download

    monkeypatch.setattr(download, "fetch", lambda config: [tmp_path / config.name])
    shown = CliRunner().invoke(build_app(), ["models", "fetch", "clip-b16-naclip-shared"])
    assert shown.stdout.strip() == str(tmp_path / "clip-b16-naclip-shared")


def test_the_table_of_models_is_not_cut_off_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Info("m" * 60, True, license="Apache-2.0 + " * 8)
    monkeypatch.setattr(ovseg, "list_models", lambda: [long])
    shown = CliRunner().invoke(build_app(), ["models"]).stdout
    assert "…" not in shown and "m" * 60 in shown and "commercial" in shown


def test_a_picture_needs_the_suffix_of_a_picture(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"such as 'sheet\.png', got '.*sheet\.foo'"):
        save_picture(Image.new("RGB", (2, 2)), tmp_path / "sheet.foo")
    save_picture(Image.new("RGB", (2, 2)), tmp_path / "sheet.PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.PNG"]
