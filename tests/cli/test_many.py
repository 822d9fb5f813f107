from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from helpers.datasets import write_folder
from helpers.documents import ROOT
from helpers.ray import needs_ray
from helpers.workers import KilledOnce
from typer.testing import CliRunner

import ovseg
import ovseg.cli.many
import ovseg.distributed
from ovseg.cli import build_app, evaluate_many
from ovseg.errors import ClusterError, ImageError, ModelError
from ovseg.evaluation import EvaluationReport

Invoke = Callable[..., Result]
LABELS = ("cat", "cup", "sky")


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """The command line, in a folder with photos, one of which is none, computing with one thread."""
    for name in ("cat", "coffee", "temple"):
        shutil.copy(ROOT / "examples" / f"{name}.jpg", tmp_path / f"{name}.jpg")
    (tmp_path / "photos/below").mkdir(parents=True)
    for name, place in (("cat", "a"), ("coffee", "below/b"), ("temple", "c")):
        shutil.move(tmp_path / f"{name}.jpg", tmp_path / f"photos/{place}.jpg")
    (tmp_path / "photos/bad.jpg").write_text("no image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda *arguments: CliRunner().invoke(build_app(), list(map(str, arguments)))


def in_one_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, which computes with one thread as the workers do."""
    return subprocess.run([sys.executable, "-m", "ovseg", *arguments], capture_output=True, text=True)


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is there once a worker was killed, as one will be."""
    spread, mark = ovseg.distributed.spread, tmp_path / "killed"

    def killing(ray: Any, make: Any, items: Any, **given: Any) -> Any:
        return spread(ray, KilledOnce(make, mark), items, **given)

    monkeypatch.setattr(ovseg.distributed, "spread", killing)
    return mark


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("arguments", [["--ray"], ["--ray", "--out", "x"]])
def test_the_address_may_be_left_out(arguments: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def over(address: str, *_: Any, **__: Any) -> Any:
        asked.append(address)
        raise ClusterError("none")

    monkeypatch.setattr(ovseg.cli.many, "over", over)
    invoke("segment", "photos", *LABELS, *arguments)
    invoke("segment", "photos", *LABELS, "--ray", "auto")
    invoke("segment", "photos", *LABELS, "--ray=10.0.0.7:6379")
    assert asked == ["alone", "auto", "10.0.0.7:6379"]


def test_a_label_after_ray_is_not_taken_for_an_address(invoke: Invoke) -> None:
    refused = invoke("segment", "photos", "--ray", "cat").exception
    assert isinstance(refused, ClusterError) and "or HOST:PORT, got 'cat'; put --ray last" in str(refused)


def test_what_only_this_machine_sees_is_refused(invoke: Invoke) -> None:
    refused = invoke("segment", "http://127.0.0.1:1/a.jpg", "cat", "--ray").exception
    assert isinstance(refused, ImageError) and "files that all machines see with --ray" in str(refused)


class TestOnACluster:
    pytestmark = needs_ray

    def test_segment_writes_what_one_process_writes_byte_for_byte(self, ray: Any, invoke: Invoke) -> None:
        options = ("--json", "--format", "coco", "--format", "areas")
        one = in_one_process("segment", "photos", *LABELS, "--out", "one", *options)
        many = invoke("segment", "photos", *LABELS, "--out", "many", *options, "--ray")
        assert one.returncode == many.exit_code == 1  # one of the photos is none
        assert contents(Path("one")) == contents(Path("many")) and len(contents(Path("one"))) == 3 * 3 + 2
        assert many.stdout == one.stdout.replace('"one/', '"many/')
        assert many.stderr.replace("in many", "in one").count("\n") == one.stderr.count("\n")
        assert "error: expected an image, but 'photos/bad.jpg' begins with b'no image'" in many.stderr
        assert "3 of 4 images done, results in many" in many.stderr

    def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(
        self, ray: Any, invoke: Invoke, killed: Path
    ) -> None:
        for number in range(4):
            shutil.copy("photos/a.jpg", f"photos/more-{number}.jpg")
        many = invoke("segment", "photos", *LABELS, "--out", "many", "--json", "--format", "coco", "--ray")
        assert killed.exists()
        one = in_one_process("segment", "photos", *LABELS, "--out", "one", "--json", "--format", "coco")
        assert many.stdout == one.stdout.replace('"one/', '"many/') and many.stdout.count("\n") == 8
        assert contents(Path("many")) == contents(Path("one"))

    def test_half_a_result_of_a_killed_worker_is_made_again(
        self, invoke: Invoke, mini: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ovseg, "load", lambda *given, **named: mini)
        works: list[Any] = []

        def over(address: str, make: Any, items: Any, **given: Any) -> list[Any]:
            (Path("out")).mkdir()
            Path("out/a.png").write_bytes(b"renamed before the kill")  # its record would have come last
            works.append([make()(list(items), again) for again in (False, True)])
            return works[0][1]

        monkeypatch.setattr(ovseg.cli.many, "over", over)
        assert invoke("segment", "photos", *LABELS, "--ray").exit_code == 1
        first, second = works[0]
        assert "is there without a record" in str(first[0]) and second[0] == (None, True)

    def test_a_second_run_skips_what_is_done(self, ray: Any, invoke: Invoke) -> None:
        invoke("segment", "photos", *LABELS, "--ray")
        before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.json")}
        assert invoke("segment", "photos", *LABELS, "--ray").exit_code == 1
        assert (
            before == {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.json")} and len(before) == 3
        )
        alone = invoke("segment", "photos/a.jpg", *LABELS, "--ray")  # one image: its table
        assert "already done with these settings" in alone.stderr and "overlay: out/a_overlay.png" in alone.stdout

    def test_an_unknown_model_is_one_sentence(self, ray: Any, invoke: Invoke) -> None:
        refused = invoke("segment", "photos", *LABELS, "--model", "minni", "--ray").exception
        assert isinstance(refused, ModelError) and "did you mean 'mini'" in str(refused)

    def test_evaluate_gives_the_scores_of_one_process(
        self, ray: Any, invoke: Invoke, killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_folder(tmp_path / "data", images=10)
        monkeypatch.setattr(evaluate_many, "_SHARE", 2)
        options = ("folder", "--data", "data", "--no-boundary")
        assert in_one_process("evaluate", *options, "--out", "one").returncode == 0
        done = invoke("evaluate", *options, "--out", "many", "--ray")
        assert done.exit_code == 0, done.exception
        assert killed.exists()
        one, many = (EvaluationReport.load(tmp_path / name / "report.json") for name in ("one", "many"))
        assert (many.mean_iou, many.interval) == (one.mean_iou, one.interval) and str(many.scores) == str(
            one.scores
        )
        timeless = [[{**row.to_dict(), "seconds": 0} for row in report.rows] for report in (one, many)]
        assert timeless[0] == timeless[1] and len(timeless[0]) == 10
        assert len(list(Path("many").glob("rows-*.jsonl"))) == 5  # a file for each share, and none of this process
        assert Path("one/sheet.jpg").read_bytes() == Path("many/sheet.jpg").read_bytes()

    def test_bank_build_gives_the_bank_of_one_process(self, ray: Any, invoke: Invoke, killed: Path) -> None:
        for number in range(4):
            shutil.copy("photos/a.jpg", f"photos/more-{number}.jpg")
        assert in_one_process("bank", "build", "photos", "--out", "one").returncode == 0
        done = invoke("bank", "build", "photos", "--out", "many", "--ray")
        assert done.exit_code == 0, done.exception
        assert killed.exists()
        one, many = (contents(Path(name)) for name in ("one", "many"))
        joined = {name for name in one if name.startswith(("images-", "regions-"))}
        assert len(joined) >= 5 and {name: one[name] for name in joined} == {name: many[name] for name in joined}
        assert "already complete" in invoke("bank", "build", "photos", "--out", "many", "--ray").stderr

    def test_pseudo_label_writes_what_one_process_writes(self, ray: Any, invoke: Invoke, killed: Path) -> None:
        for number in range(4):
            shutil.copy("photos/a.jpg", f"photos/more-{number}.jpg")
        assert invoke("bank", "build", "photos", "--out", "photos.bank").exit_code == 0
        options = ("pseudo-label", "photos.bank", "--label", "cat", "--label", "sky", "--out")
        assert in_one_process(*options, "one").returncode == 0
        done = invoke(*options, "many", "--ray")
        assert done.exit_code == 0, done.exception
        assert killed.exists() and "7 label maps in many, 0 failed" in done.stdout
        assert contents(Path("one")) == contents(Path("many"))
