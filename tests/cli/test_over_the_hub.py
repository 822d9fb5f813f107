"""``ovseg`` as a user runs it, a process for each call, with ``HF_ENDPOINT`` naming a hub on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.checkpoints import repositories_of
from helpers.hub import Hub, serving_hub
from PIL import Image

import ovseg
from ovseg.models.config import read_model_config

ROOT = Path(ovseg.__file__).parents[1]
PROGRAM = Path(__file__).parents[1] / "helpers" / "narrow_cli.py"
NAME, FILE = "clip-b16-naclip-shared", "open_clip_model.safetensors"
REPO = "timm/vit_base_patch16_clip_224.openai"
SIZE = len(repositories_of(read_model_config(NAME))[REPO][FILE])


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving_hub(repositories_of(read_model_config("clip-b16-proxyclip-shared"))) as serving:
        yield serving


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts ``ovseg ARGUMENT…`` in a folder with nothing of the user's own."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((64, 48)).save(tmp_path / "photo.png")
    home = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.address}
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}

    def run(*arguments: str, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            cwd=tmp_path,
            env=kept | home | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def ovseg_command(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    """Runs it to its end: the exit status, and all that was printed."""

    def run(*arguments: str, **settings: str) -> tuple[int, str]:
        process = start(*arguments, **settings)
        printed = "".join(process.communicate(timeout=300))
        assert process.returncode is not None and "Traceback" not in printed
        return process.returncode, printed

    return run


def segment(model: str = NAME, out: str = "out") -> list[str]:
    return ["segment", "photo.png", "cat", "sofa", "--model", model, "--background", "none", "--out", out]


def wait_until(said: Callable[[], bool]) -> None:
    for _ in range(6000):
        if said():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that within a minute")


def partial(folder: Path) -> list[Path]:
    return list((folder / "hf").rglob("*.incomplete"))


@pytest.mark.slow
def test_a_photo_is_segmented_with_weights_of_the_hub(
    hub: Hub, ovseg_command: Callable[..., tuple[int, str]]
) -> None:
    status, printed = ovseg_command(*segment())
    assert status == 0 and "cat" in printed
    assert hub.sent() == SIZE


@pytest.mark.slow
def test_offline_gives_what_the_hub_gave(
    hub: Hub, ovseg_command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    ovseg_command(*segment())
    hub.stop()
    status, printed = ovseg_command(*segment(out="offline"), HF_HUB_OFFLINE="1")
    assert status == 0 and "error" not in printed
    maps = [np.asarray(Image.open(tmp_path / out / "photo.png")) for out in ("out", "offline")]
    np.testing.assert_array_equal(*maps)
    assert len(np.unique(maps[0])) == 2


@pytest.mark.slow
def test_weights_are_fetched_listed_and_used_again_without_a_byte(
    hub: Hub, ovseg_command: Callable[..., tuple[int, str]]
) -> None:
    model = "clip-b16-proxyclip-shared"
    status, printed = ovseg_command("models", "fetch", model)
    assert status == 0 and printed.count("snapshots") == 2
    sent = hub.sent()
    status, printed = ovseg_command("models", "--json")
    assert '"name": "clip-b16-proxyclip-shared"' in printed and printed.count('"local": true') > 2
    for command in (["models", "fetch", model], segment(model)):
        assert ovseg_command(*command)[0] == 0 and hub.sent() == sent
    hub.stop()  # and nobody said that there is no network
    status, printed = ovseg_command(*segment(model, out="again"))
    assert status == 0 and "error" not in printed


@pytest.mark.slow
def test_after_a_kill_it_is_fetched_anew_and_whole(
    hub: Hub, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    hub.pauses[FILE] = 0.02
    process = start("models", "fetch", NAME)
    wait_until(lambda: hub.sent() > SIZE // 10)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(partial(tmp_path)) == 1
    hub.pauses.clear()
    process = start("models", "fetch", NAME)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert [each.range for each in hub.got(FILE)] == [None, None]  # huggingface_hub 2 goes on in one process alone
    weights = next((tmp_path / "hf").rglob(f"snapshots/*/{FILE}"))
    assert weights.read_bytes() == hub.repositories[REPO].files[FILE]
    assert len(partial(tmp_path)) == 1  # of the process that was killed; 'hf cache prune' clears it up


@pytest.mark.slow
def test_an_interrupt_leaves_nothing_half_done(
    hub: Hub, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    hub.pauses[FILE] = 0.02
    process = start("models", "fetch", NAME)
    wait_until(lambda: hub.sent() > SIZE // 10)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert not partial(tmp_path)


@pytest.mark.slow
def test_two_processes_at_once_fetch_once_and_both_succeed(
    hub: Hub, start: Callable[..., subprocess.Popen[str]]
) -> None:
    hub.pauses[FILE] = 0.02
    processes = [start("models", "fetch", NAME) for _ in range(2)]
    printed = ["".join(process.communicate(timeout=300)) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert len(hub.got(FILE)) == 1 and hub.sent() == SIZE


@pytest.mark.slow
def test_errors_are_one_sentence_with_the_address_of_the_hub_in_use(
    hub: Hub, ovseg_command: Callable[..., tuple[int, str]]
) -> None:
    hub.repositories[REPO].gated = True
    for command in (["models", "fetch", NAME], segment()):
        status, printed = ovseg_command(*command)
        assert status == 2 and printed.strip().splitlines()[-1].startswith("error: the weights of model")
        assert f"accept their licence at {hub.address}/{REPO} (log in, click 'Agree and access" in printed
        assert "huggingface.co" not in printed
    status, printed = ovseg_command("models", "fetch", NAME, HF_HUB_OFFLINE="1")
    assert status == 2 and "HF_HUB_OFFLINE is set and they are not on this machine" in printed


@pytest.mark.slow
def test_weights_by_hand_need_no_hub(
    hub: Hub, ovseg_command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    model = "clip-b16-proxyclip-shared"
    places = {REPO: tmp_path / "mine", "timm/vit_base_patch8_224.dino": tmp_path / "mine" / "structure"}
    for repo, folder in places.items():
        folder.mkdir(exist_ok=True)
        for name, content in hub.repositories[repo].files.items():
            (folder / name).write_bytes(content)
    status, printed = ovseg_command(*segment(model), "--weights", "mine")
    assert status == 0 and "cat" in printed and not hub.asked
    (tmp_path / "mine" / "structure" / "model.safetensors").unlink()
    status, printed = ovseg_command(*segment(model, out="other"), "--weights", "mine")
    assert status == 2 and "expected the weights of structure encoder 'vit_base_patch8_224.dino'" in printed
