"""Weights that are missing, gated, damaged or too large: every error says what to do by hand."""

import errno
import hashlib
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

from ovseg import hub
from ovseg.errors import ModelError
from ovseg.models import download as models_download
from ovseg.models.config import read_model_config
from ovseg.models.sections import GatherConfig
from ovseg.regions import RegionsConfig


def failing(error):
    def download(repo, name, **options):
        raise error

    return download


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_a_missing_network_names_files_size_licence_and_place(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(LocalEntryNotFoundError("offline")))
    with pytest.raises(ModelError) as caught:
        models_download.fetch(read_model_config("clip-b16-naclip-paper"))
    message = str(caught.value)
    for part in (
        "model 'clip-b16-naclip-paper'",
        "about 598 MB, licence MIT",
        "https://huggingface.co/timm/vit_base_patch16_clip_224.openai",
        "open_clip_model.safetensors",
        "--weights FOLDER",
    ):
        assert part in message


def test_an_unreachable_hub_is_not_asked(monkeypatch):
    asked = []

    def download(repo, name, *, local_files_only):
        asked.append(local_files_only)
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "unreachable", lambda: True)
    with pytest.raises(ModelError, match="the hub cannot be reached; download one of"):
        hub.download("a/b", what="model 'a'")
    assert asked == [True]


def test_the_structure_encoder_belongs_in_a_folder_of_its_own(monkeypatch, tmp_path):
    def download(repo, name, **options):
        if "dino" in repo:
            raise LocalEntryNotFoundError("offline")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ModelError, match="by hand into FOLDER/structure"):
        models_download.fetch(read_model_config("clip-b16-proxyclip-shared"))


def test_gated_weights_say_where_to_accept_the_licence(monkeypatch):
    error = GatedRepoError("gated", response=response(403))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(error))
    with pytest.raises(
        ModelError, match=r"are gated; accept their licence at .*huggingface.co/a/b .*hf auth login"
    ):
        hub.download("a/b", what="model 'x'")


def test_a_full_disk_says_how_to_use_another(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(OSError(errno.ENOSPC, "no space")))
    with pytest.raises(ModelError, match=r"the disk is full .* set HF_HOME"):
        hub.download("a/b", what="model 'x'")


def test_the_first_file_that_is_there_is_taken(monkeypatch, tmp_path):
    def download(repo, name, **options):
        if name != "model.safetensors":
            raise EntryNotFoundError("no such file")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert hub.download("a/b", what="x").name == "model.safetensors"
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(EntryNotFoundError("none")))
    with pytest.raises(ModelError, match="got none of them"):
        hub.download("a/b", what="x")


def test_an_empty_folder_and_a_wrong_checksum_are_refused(tmp_path):
    with pytest.raises(ModelError, match="expected the weights of model 'x' as one of open_clip_model"):
        hub.find_weights("a/b", tmp_path, what="model 'x'")
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(ModelError, match="fetch it again"):
        hub.find_weights("a/b", tmp_path, what="model 'x'", sha256="0" * 64)
    assert hub.find_weights("a/b", tmp_path, what="x") == tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match="names no repository"):
        hub.find_weights("", None, what="model 'x'")


def test_torch_files_are_read_as_tensors_alone(tmp_path):
    torch.save({"state_dict": {"weight": torch.ones(2)}}, tmp_path / "a.bin")
    assert hub.read_state(tmp_path / "a.bin")["weight"].tolist() == [1, 1]
    torch.save({"weight": SimpleNamespace()}, tmp_path / "b.bin")
    with pytest.raises(ModelError, match="cannot be read as tensors alone"):
        hub.read_state(tmp_path / "b.bin")
    torch.save([torch.ones(1)], tmp_path / "c.bin")
    with pytest.raises(ModelError, match="must hold a mapping"):
        hub.read_state(tmp_path / "c.bin")


def test_a_model_is_local_when_every_part_of_it_is(monkeypatch):
    there = {"timm/vit_base_patch16_clip_224.openai"}
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, name: "/path" if repo in there else None
    )
    assert models_download.is_local(read_model_config("clip-b16-naclip-paper"))
    assert not models_download.is_local(read_model_config("clip-b16-proxyclip-paper"))
    there.add("timm/vit_base_patch8_224.dino")
    assert models_download.is_local(read_model_config("clip-b16-proxyclip-paper"))
    assert not models_download.is_local(read_model_config("clip-l14-naclip-shared"))
    naclip = read_model_config("clip-b16-naclip-paper")
    regions = RegionsConfig(source="sam", options={"model": "facebook/sam-vit-base"})
    gathers = naclip.model_copy(update={"gather": GatherConfig(regions=regions)})
    assert not models_download.is_local(gathers)
    there.add("facebook/sam-vit-base")
    assert models_download.is_local(gathers)
    embedded = naclip.model_copy(update={"gather": GatherConfig(regions=RegionsConfig(source="sam"))})
    assert models_download.is_local(embedded)


def test_weights_are_known_by_their_bytes_which_the_cache_names(tmp_path):
    (tmp_path / "blobs").mkdir()
    blob = tmp_path / "blobs" / ("f" * 64)
    blob.write_bytes(b"x")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert hub.content_of(link) == "f" * 64
    plain = tmp_path / "other.safetensors"
    plain.write_bytes(b"abc")
    assert hub.content_of(plain) == hashlib.sha256(b"abc").hexdigest()


def test_the_embedded_model_needs_no_fetching():
    assert models_download.fetch(read_model_config("mini")) == []
