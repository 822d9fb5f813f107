"""The hub's library against a hub on this machine: once over the wire, told in one sentence when it goes wrong."""

from __future__ import annotations

import errno
import hashlib
import logging
import random
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hub import Hub, point_at, serving_hub

from ovseg import hub as weights_hub
from ovseg.errors import ModelError

FIRST, SECOND = "open_clip_model.safetensors", "model.safetensors"
BYTES = random.Random(0).randbytes(200_000)
DIGEST = hashlib.sha256(BYTES).hexdigest()
TOKENIZER = {"tokenizer.json": b"{}", "tokenizer_config.json": b'{"a": 1}'}
REPOSITORIES = {
    "some/clip": {FIRST: BYTES, SECOND: b"of timm", "README.md": b"card"},
    "some/dino": {SECOND: BYTES},
    "some/pair": {"model.safetensors": BYTES, "config.json": b"{}", "flax_model.msgpack": b"no" * 999, **TOKENIZER},
    "some/old": {"pytorch_model.bin": BYTES, "config.json": b"{}"},
    "some/words": {"README.md": b"nothing here", **TOKENIZER},
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub(REPOSITORIES) as serving:
        point_at(serving, tmp_path / "cache", monkeypatch)
        yield serving


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the library would have waited."""
    asked: list[float] = []
    for module in ("file_download", "utils._http"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time.sleep", asked.append)
    return asked


def fetch(repo: str = "some/clip", **options: str) -> Path:
    return weights_hub.find_weights(repo, None, what="model 'x'", **options)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.incomplete") if path.is_file()]


@pytest.mark.parametrize("repo", ["some/clip", "some/dino"])
def test_weights_come_once_and_are_asked_for_by_every_name_until_one_is_there(hub: Hub, repo: str) -> None:
    path = fetch(repo, sha256=DIGEST)
    assert path.read_bytes() == BYTES and path.resolve().name == DIGEST
    sent = hub.sent()
    assert sent == len(BYTES)
    assert fetch(repo) == path and hub.sent() == sent
    names = [each.path.rsplit("/", 1)[-1] for each in hub.asked if each.method == "HEAD"]
    assert names == ([FIRST, FIRST] if repo == "some/clip" else [FIRST, SECOND, SECOND])


@pytest.mark.parametrize("repo", ["some/clip", "some/dino"])
def test_what_is_here_is_found_when_the_hub_is_gone(hub: Hub, repo: str, waits: list[float]) -> None:
    path = fetch(repo)
    hub.stop()
    assert fetch(repo) == path and not waits


def test_a_name_that_the_hub_knows_nothing_of_is_asked_for_again_once_the_repository_changes(hub: Hub) -> None:
    assert fetch("some/dino").name == SECOND
    hub.repositories["some/dino"].files[FIRST] = b"new"
    assert fetch("some/dino").name == SECOND  # the hub then says that there is another state
    assert fetch("some/dino").read_bytes() == b"new"


def test_offline_by_the_environment_is_named_as_the_reason(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch("some/dino")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert fetch("some/dino") == path
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set and they are not on this machine; download one of"):
        fetch("some/clip")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        weights_hub.download_folder("some/pair", what="model 'x'")
    assert len(hub.asked) == asked


def test_a_hub_that_is_gone_ends_in_a_sentence_with_its_address(hub: Hub, waits: list[float]) -> None:
    hub.stop()
    with pytest.raises(
        ModelError, match=re.escape(f"fetched from {hub.address}/some/clip: the hub cannot be reached")
    ):
        fetch()


def test_a_connection_that_is_cut_goes_on_where_it_ended(
    hub: Hub, waits: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000
    )  # what it keeps comes in tens of MB
    hub.cuts[FIRST] = deque([70_000, 30_000])
    assert fetch(sha256=DIGEST).read_bytes() == BYTES
    ranges = [each.range for each in hub.got(FIRST)]
    assert ranges[0] is None and len(ranges) == 3
    assert all(wanted is not None and wanted.startswith("bytes=") for wanted in ranges[1:])
    assert hub.sent() == len(BYTES)  # no byte twice
    assert "Trying to resume download" in caplog.text


def test_a_connection_that_is_cut_for_good_is_told_and_leaves_nothing(
    hub: Hub, waits: list[float], tmp_path: Path
) -> None:
    hub.cuts[FIRST] = deque([0] * 20)
    with pytest.raises(ModelError, match=r"the connection broke .*; run the same command again"):
        fetch()
    assert not leftovers(tmp_path)
    hub.cuts.clear()
    assert fetch(sha256=DIGEST).read_bytes() == BYTES


def test_slow_bytes_are_waited_for(hub: Hub) -> None:
    hub.pauses[FIRST] = 0.02
    assert fetch(sha256=DIGEST).read_bytes() == BYTES


def test_too_many_requests_are_waited_for_as_long_as_the_hub_says_and_told(
    hub: Hub, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    hub.refusals = 3
    assert fetch(sha256=DIGEST).read_bytes() == BYTES
    assert waits == [2.0, 2.0]  # Retry-After: 1, and one for rounding; the first is asked again at once
    assert "Rate limited. Waiting 2.0s" in caplog.text
    assert "thrown while requesting" not in caplog.text


def test_too_many_requests_for_good_are_told(hub: Hub, waits: list[float]) -> None:
    hub.refusals = 99
    with pytest.raises(
        ModelError, match=r"fewer requests \(429\); wait some minutes, or log in by 'hf auth login'"
    ):
        fetch()
    with pytest.raises(ModelError, match=r"fewer requests \(429\)"):
        weights_hub.download_folder("some/pair", what="model 'x'")


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_gated_weights_say_what_to_click(hub: Hub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["some/clip"].gated = hub.repositories["some/pair"].gated = True
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    expected = re.escape(f"are gated; accept their licence at {hub.address}/some/")
    with pytest.raises(ModelError, match=expected + r".*click 'Agree and access repository'.*hf auth login"):
        fetch()
    with pytest.raises(ModelError, match=expected):
        weights_hub.download_folder("some/pair", what="model 'x'")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    hub.repositories["some/clip"].readers.add("hf_right")
    assert fetch(sha256=DIGEST).read_bytes() == BYTES


def test_a_network_that_answers_everything_by_itself_is_told(hub: Hub) -> None:
    hub.portal = True
    with pytest.raises(
        ModelError, match="what answers there is no hub; check HF_ENDPOINT, and whether the network"
    ):
        fetch()


def test_an_address_without_its_scheme_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "mirror.example")
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "mirror.example/{repo_id}/{filename}"
    )
    with pytest.raises(ModelError, match=r"expected HF_ENDPOINT to begin with https://, got 'mirror.example'"):
        fetch()


def test_a_repository_that_is_not_there_is_named(hub: Hub) -> None:
    with pytest.raises(
        ModelError, match=re.escape(f"there is no repository {hub.address}/some/other, or it is private")
    ):
        fetch("some/other")
    with pytest.raises(ModelError, match=re.escape(f"in {hub.address}/some/words, got none of them")):
        fetch("some/words")


def test_a_wrong_checksum_deletes_the_file_so_that_it_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["some/clip"].files[FIRST] = BYTES[::-1]
    with pytest.raises(
        ModelError, match=rf"is {hashlib.sha256(BYTES[::-1]).hexdigest()[:12]}…, not {DIGEST[:12]}…"
    ):
        fetch(sha256=DIGEST)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    with pytest.raises(
        ModelError, match=re.escape(f"{hub.address}/some/clip holds other weights than the model file")
    ):
        fetch(sha256=DIGEST)
    assert hub.sent() == 2 * len(BYTES)
    hub.repositories["some/clip"].files[FIRST] = BYTES
    assert fetch(sha256=DIGEST).read_bytes() == BYTES


def test_a_file_that_was_damaged_on_the_disk_is_found_and_fetched_again(hub: Hub) -> None:
    path = fetch()
    weights_hub.check_bytes(path, what="model 'x'")
    path.resolve().chmod(0o644)
    path.resolve().write_bytes(BYTES[:-1] + b"!")
    assert fetch() == path  # as long as nobody looks at its bytes
    with pytest.raises(ModelError, match="was damaged on this disk; it was deleted, fetch it again"):
        weights_hub.check_bytes(path, what="model 'x'")
    assert fetch(sha256=DIGEST) == path


def test_files_outside_the_cache_are_not_compared_with_their_names(tmp_path: Path) -> None:
    (tmp_path / SECOND).write_bytes(b"mine")
    weights_hub.check_bytes(tmp_path, what="model 'x'")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_leaves_nothing(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    get = file_download.http_get

    def to_full_disk(url: str, temp_file: object, **options: object) -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            get(url, full, **options)

    monkeypatch.setattr(file_download, "http_get", to_full_disk)
    with pytest.raises(
        ModelError, match=r"the disk is full while the weights .* set HF_HOME to a folder"
    ) as caught:
        fetch()
    assert caught.value.__cause__ is not None and caught.value.__cause__.errno == errno.ENOSPC
    assert hub.address in str(caught.value) and not leftovers(tmp_path)


def test_a_folder_holds_weights_and_tokenizer_and_nothing_of_other_libraries(hub: Hub) -> None:
    folder = weights_hub.download_folder("some/pair", what="model 'x'")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", *TOKENIZER}
    sent = hub.sent()
    assert weights_hub.download_folder("some/pair", what="model 'x'") == folder and hub.sent() == sent
    hub.stop()
    assert weights_hub.download_folder("some/pair", what="model 'x'") == folder


def test_torch_files_are_taken_where_a_repository_has_no_safetensors(hub: Hub) -> None:
    folder = weights_hub.download_folder("some/old", what="model 'x'")
    assert {path.name for path in folder.iterdir()} == {"pytorch_model.bin", "config.json"}
    hub.stop()
    assert weights_hub.download_folder("some/old", what="model 'x'") == folder


def test_a_tokenizer_comes_without_the_weights_beside_it(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    assert not weights_hub.has_tokenizer("some/pair")
    with caplog.at_level(logging.INFO):
        folder = weights_hub.download_tokenizer("some/pair", what="the tokenizer of 'x'")
    assert {path.name for path in folder.iterdir()} == set(TOKENIZER)
    assert weights_hub.has_tokenizer("some/pair") and weights_hub.has_tokenizer(folder)
    with pytest.raises(
        ModelError, match=r"^the tokenizer of 'x' could not be .*download its files by hand into FOLDER"
    ):
        hub.stop()
        weights_hub.download_tokenizer("some/words", what="the tokenizer of 'x'")
