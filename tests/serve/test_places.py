from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.serving import folder_of_photos, png

from ovseg.serve.places import inside, read_inside
from ovseg.serve.refusals import Refusal


def test_a_file_inside_is_read_and_links_within_are_followed(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path)
    for path in ("photo.png", "sub/other.png", "./sub/../photo.png", "within.png"):
        assert read_inside(folder, path, max_bytes=10_000) == png()


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "sub/../../secret.png",
        "link.png",
        "up/secret.png",
        "up/open/../secret.png",
        "..",
        "a\0b",
        "x" * 5000,
    ],
)
def test_nothing_outside_is_read_nor_told_to_be_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(Refusal, match="in the folder of this server") as refusal:
        read_inside(folder_of_photos(tmp_path), path, max_bytes=10_000)
    assert refusal.value.status == 422


def test_absolute_paths_are_refused_even_inside(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path)
    for path in (str(tmp_path / "secret.png"), str(folder / "photo.png"), "/etc/passwd", "//etc/passwd"):
        with pytest.raises(Refusal, match="in the folder of this server"):
            inside(folder, path)


def test_a_folder_beside_with_the_same_beginning_is_outside(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path)
    beside = tmp_path / "open-too"
    beside.mkdir()
    (beside / "x.png").write_bytes(png())
    with pytest.raises(Refusal):
        inside(folder, "../open-too/x.png")


def test_folders_pipes_and_large_files_are_refused(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path)
    os.mkfifo(folder / "pipe.png")
    for path in ("sub", "", "pipe.png"):
        with pytest.raises(Refusal, match="expected a file"):
            read_inside(folder, path, max_bytes=10_000)
    with pytest.raises(Refusal, match="more than the limit of 10 bytes") as refusal:
        read_inside(folder, "photo.png", max_bytes=10)
    assert refusal.value.status == 413
