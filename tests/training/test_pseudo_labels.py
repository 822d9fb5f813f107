"""Training on what ``ovseg pseudo-label`` writes, wherever the bank's images come from."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy import make_segmenter, paint
from helpers.training import losses, recipe
from PIL import Image

from ovseg.bank import ImageBank
from ovseg.bank.pseudo_labels import write_pseudo_labels
from ovseg.errors import DatasetError
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training import train
from ovseg.training.data import PseudoLabels, PseudoLabelSource

LABELS = ["red", "green", "blue"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, colours in enumerate((["red", "green"], ["green", "blue"], ["blue", "red"])):
        paint(tmp_path / "photos", f"{number}.png", colours, seed=number)
    return tmp_path / "photos"


def as_files(photos: Path, out: Path) -> str:
    return str(photos)


def as_tar(photos: Path, out: Path) -> str:
    out.mkdir(exist_ok=True)
    with tarfile.open(out / "shard.tar", "w") as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, arcname=f"deep/{path.name}")
    return str(out / "shard.tar")


def as_hub(photos: Path, out: Path) -> str:
    import datasets

    table = datasets.Dataset.from_dict({"image": [path.read_bytes() for path in sorted(photos.iterdir())]})
    table = table.cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": table}).save_to_disk(str(out / "saved"))
    return f"hf://{out / 'saved'}:train"


FORMS = {"files": as_files, "tar": as_tar, "hub": as_hub}


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    made = make_segmenter()
    monkeypatch.setattr("ovseg.training.runs.trainable_model", lambda _: made.model)
    return made


@pytest.fixture
def labelled(photos: Path, tmp_path: Path, segmenter: Segmenter) -> Callable[[str], Path]:
    def label(form: str) -> Path:
        source = FORMS[form](photos, tmp_path / form)
        bank = ImageBank.build(source, out=tmp_path / f"{form}.bank", segmenter=segmenter)
        report = write_pseudo_labels(bank, tmp_path / f"{form}-labels", segmenter=segmenter, labels=LABELS)
        assert (report.images, report.failed) == (3, 0)
        return tmp_path / f"{form}-labels"

    return label


def trained_on(root: Path, tmp_path: Path, **values: Any) -> Path:
    return train(recipe(tmp_path, data=(PseudoLabels(pseudo_labels=root),), out=root.with_suffix(".run"), **values))


@pytest.mark.parametrize("form", ["tar", "hub"])
@pytest.mark.parametrize("cache", [True, False])
def test_the_same_photos_teach_the_same_wherever_they_lie(
    labelled: Callable[[str], Path], tmp_path: Path, form: str, cache: bool
) -> None:
    files, packed = (trained_on(labelled(kind), tmp_path, cache=cache) for kind in ("files", form))
    assert losses(packed) == losses(files) and min(losses(packed)) > 0
    (entry,) = json.loads((packed / "data.json").read_text())
    assert (entry["images"], entry["classes"]) == (3, 3)


@pytest.mark.parametrize("form", ["tar", "hub"])
def test_pixels_and_labels_lie_on_each_other(labelled: Callable[[str], Path], form: str) -> None:
    source = PseudoLabelSource(PseudoLabels(pseudo_labels=labelled(form)))
    assert source.phrases == tuple(LABELS) and len(source.names) == 3
    for index in range(3):
        example = source.load(index)
        red = example.image[example.truth == 0]
        assert len(red) == 0 or red.mean(0)[0] > 2 * red.mean(0)[1:].max()
        assert [path.parent.name for path in source.files(index)] == ["labels", "confidence"]


def test_a_member_that_changed_since_it_was_labelled_is_refused(
    labelled: Callable[[str], Path], photos: Path, tmp_path: Path
) -> None:
    root = labelled("tar")
    paint(photos, "1.png", ["red", "red"], seed=9)
    as_tar(photos, tmp_path / "tar")
    with pytest.raises(DatasetError, match=r"shard.tar::deep/1.png' is no longer the image that was labelled; run"):
        trained_on(root, tmp_path)


def test_a_photo_that_changed_since_it_was_labelled_is_refused(
    labelled: Callable[[str], Path], photos: Path, tmp_path: Path
) -> None:
    root = labelled("files")
    paint(photos, "1.png", ["red", "red"], seed=9)
    with pytest.raises(DatasetError, match=r"photos/1.png' is no longer the image that was labelled"):
        trained_on(root, tmp_path)


@pytest.mark.parametrize("form", ["tar", "hub"])
def test_images_that_are_gone_are_named(labelled: Callable[[str], Path], tmp_path: Path, form: str) -> None:
    import shutil

    from ovseg.images import sources

    root = labelled(form)
    shutil.rmtree(tmp_path / form)
    sources._hub_images.cache_clear()
    with pytest.raises(DatasetError, match=r"cannot (read|load)"):
        trained_on(root, tmp_path)


def test_other_content_under_one_key_is_another_run(
    labelled: Callable[[str], Path], photos: Path, tmp_path: Path
) -> None:
    first = PseudoLabelSource(PseudoLabels(pseudo_labels=labelled("tar"))).names
    stream = io.BytesIO()
    Image.fromarray(np.asarray(Image.open(photos / "1.png"))[::-1]).save(stream, "PNG")
    (photos / "1.png").write_bytes(stream.getvalue())
    import shutil

    shutil.rmtree(tmp_path / "tar.bank"), shutil.rmtree(tmp_path / "tar-labels")
    second = PseudoLabelSource(PseudoLabels(pseudo_labels=labelled("tar"))).names
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]
