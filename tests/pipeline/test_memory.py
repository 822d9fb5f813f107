import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import ToyEncoder, bound, within
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import ovseg
from ovseg.bank import ImageBank
from ovseg.cli import build_app
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError, ImageError, ModelError, TooLargeError, VocabularyError
from ovseg.models.sections import ScoringConfig
from ovseg.pipeline import memory as module
from ovseg.pipeline.memory import Asked, parse_memory, peak_of
from ovseg.pipeline.opening import load
from ovseg.pipeline.segmenter import Segmenter

LABELS = ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (1234, 1234),
        ("1234", 1234),
        ("1GB", 10**9),
        ("512 MB", 512 * 10**6),
        ("1.5GiB", 3 * 2**29),
        ("64kb", 64000),
        ("2TiB", 2**41),
        ("7B", 7),
    ],
)
def test_an_amount_of_memory_is_bytes_or_text(asked: int | str, count: int) -> None:
    assert parse_memory(asked) == count


@pytest.mark.parametrize("asked", [0, -5, True, "", "much", "1 GBit", "0MB", "1e9", "-1GB", "nan"])
def test_what_is_no_amount_is_refused(asked: Any) -> None:
    with pytest.raises(ConfigError, match="max_memory must be a number of bytes or text such as '1GB'"):
        parse_memory(asked)


def test_the_peak_counts_tensors_until_they_are_gone() -> None:
    def make() -> Tensor:
        first = torch.zeros(1000)  # 4,000 bytes
        second = first + 1  # 8,000 with the first
        del first
        third = second[:500] * second[500:]  # 2,000 more than the second; views are free
        return third + 1  # and 2,000 more

    assert peak_of(make)[0] == 8000
    assert peak_of(lambda: torch.zeros(10, dtype=torch.float64))[0] == 80


def test_the_least_is_the_larger_of_encoding_and_deciding(segmenter: Segmenter) -> None:
    memory = bound(segmenter)
    # 64 x 64 pixels are 8 x 8 cells of 7 values, given as structure too: 2 x 4 x 7 bytes for 64 pixels
    assert memory.kept == 2 * 4 * 7 / 64
    asked = Asked(labels=3, rows=10)
    # 64 x 128 pixels of input are 8 x 16 cells: 36 bytes a pixel, 24 for a million values, 4 copies of 10 maps
    deciding = 36 * 100 * 200 + 24_000_000 + 4 * 4 * 10 * 128
    rest = 128_000_000 + memory.kept * 64 * 128
    assert memory.least((100, 200), asked) == int(rest + deciding)
    kept = memory.least((100, 200), replace(asked, keep_scores=True))
    assert kept == int(rest + deciding + 2 * 3 * 100 * 200)
    running = replace(memory, running=1e6).least((100, 200), asked)
    assert running == int(rest + 14 * 100 * 200 + 1e6 * 64 * 128)


def test_a_bank_takes_images_one_by_one_where_memory_is_bounded(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        Image.fromarray(photo(seed)).save(tmp_path / f"{seed}.png")
    free = ImageBank.build(tmp_path, out=tmp_path / "free", segmenter=segmenter)
    monkeypatch.setattr("ovseg.bank.build.side_by_side", None)  # what is called would fail
    kept = ImageBank.build(tmp_path / "*.png", out=tmp_path / "kept", segmenter=within(segmenter, 10**12))
    np.testing.assert_array_equal(kept.vectors, free.vectors)


def photo(seed: int = 0, size: tuple[int, int] = (96, 120)) -> np.ndarray:
    random = np.random.default_rng(seed)
    squares = random.integers(0, 256, (size[0] // 24, size[1] // 24, 3))
    return squares.repeat(24, 0).repeat(24, 1).astype(np.uint8)


@pytest.mark.parametrize("at", ["cells", "pixels"])
@pytest.mark.parametrize("count", [1, 50, 1000])
def test_labels_are_the_same_within_any_bound(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, at: str, count: int
) -> None:
    monkeypatch.setattr(module, "_LEAST_VALUES", 10_000)
    scoring = ScoringConfig(at=at)  # type: ignore[arg-type]
    labels = ["red", *(f"thing {number}" for number in range(count - 1))]
    refine, picture = at == "cells", photo(size=(48, 72))
    plain = Segmenter(
        replace(segmenter.model, config=segmenter.config.model_copy(update={"scoring": scoring})),
        device=segmenter.device,
        cache=segmenter.wording.cache.folder,
    )
    asked = Asked.of(plain.queries(labels, background="auto"), keep_scores=True)
    least = within(segmenter, 1, scoring=scoring).memory
    assert least is not None
    whole = plain.segment(picture, labels, refine=refine, keep_scores=True)
    for total in (least.least((48, 72), asked), 10**12):
        bounded = within(segmenter, total, scoring=scoring)
        found = bounded.segment(picture, labels, refine=refine, keep_scores=True)
        assert np.array_equal(found.index_map, whole.index_map)
        assert whole.scores is not None and found.scores is not None
        np.testing.assert_allclose(found.scores, whole.scores, atol=1e-3)


def test_a_batch_has_the_same_labels_and_is_as_large_as_there_is_room(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [photo(seed) for seed in range(5)]
    whole = [each.index_map for each in segmenter.segment_batch(photos, LABELS)]
    asked = Asked.of(segmenter.queries(LABELS, background="auto"))
    least = bound(segmenter).least((96, 120), asked)
    each = 3 * 96 * 120 + bound(segmenter).kept * 64 * 80  # a photo that waits, and its features
    seen: list[int] = []
    for total in (least, least + int(2 * 2 * each) + 1, 10**12):
        bounded = within(segmenter, total)
        encode = bounded.encode_batch
        monkeypatch.setattr(bounded, "encode_batch", lambda some, e=encode: [seen.append(len(some)), e(some)][1])
        found = [each.index_map for each in bounded.segment_batch(photos, LABELS)]
        assert all(np.array_equal(one, other) for one, other in zip(whole, found, strict=True))
    assert seen == [1, 1, 1, 1, 1, *(3, 2), *(4, 1)]


class Counting(ToyEncoder):
    """Remembers how many windows ran together."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[int] = []

    def dense(self, pixels: Tensor) -> DenseFeatures:
        self.together.append(len(pixels))
        return super().dense(pixels)


def test_windows_run_together_as_far_as_there_is_room(segmenter: Segmenter) -> None:
    encoder = Counting()
    sizes = segmenter.config.input.model_copy(update={"window": 32, "overlap": 0})
    config = segmenter.config.model_copy(update={"input": sizes})
    model = replace(segmenter.model, image=encoder, config=config)
    memory = replace(bound(segmenter), config=config, running=1e6)
    held = 128_000_000 + memory.kept * 64 * 128 + (14 + 3) * 48 * 96
    maps, runs = [], {}
    for windows in (1, 2.5, 100):
        encoder.together = []
        total = int(held + 1e6 * windows * 32 * 32)
        bounded = Segmenter(model, device=segmenter.device, memory=replace(memory, total=total))
        maps.append(bounded.segment(photo(size=(48, 96)), LABELS).index_map)
        runs[windows] = encoder.together
    assert runs == {1: [1] * 8, 2.5: [2, 2, 2, 2], 100: [8]}
    assert all(np.array_equal(maps[0], each) for each in maps)


def png_head(width: int, height: int) -> bytes:
    """The beginning of a PNG file of a size, without any pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + bytes(4)
        + b"IDAT"
    )


def test_a_photo_that_cannot_fit_is_refused_before_it_is_decoded(segmenter: Segmenter, tmp_path: Path) -> None:
    bounded = within(segmenter, 200_000_000)
    (tmp_path / "huge.png").write_bytes(png_head(9000, 6000))
    said = r"huge.png' has 9000 x 6000 pixels, which need at least 2.1 GB with 3 labels, got max_memory=200 MB; "
    with pytest.raises(ImageError, match=said + "give more, shrink it, .*segment_large"):
        bounded.segment(tmp_path / "huge.png", LABELS)
    with pytest.raises(ImageError, match="the image has 2000 x 1000 pixels, which need at least"):
        bounded.segment(np.zeros((1000, 2000, 3), np.uint8), LABELS)
    with pytest.raises(ImageError, match=r"huge.png' has 9000 x 6000 pixels, which need at least"):
        bounded.encode(tmp_path / "huge.png")
    found = list(bounded.segment_batch([tmp_path / "huge.png", photo()], LABELS, on_error="return"))
    assert isinstance(found[0], ImageError) and found[1].index_map.shape == (96, 120)
    with pytest.raises(ImageError, match="with 3 labels, their scores kept, got"):
        bounded.segment(np.zeros((1000, 1300, 3), np.uint8), LABELS, keep_scores=True)


def test_the_command_does_what_fits_and_reports_the_rest(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/huge.png").write_bytes(png_head(9000, 6000))
    for seed in range(2):
        Image.fromarray(photo(seed)).save(tmp_path / f"photos/{seed}.png")
    asked: dict[str, Any] = {}
    bounded = within(segmenter, 200_000_000)
    monkeypatch.setattr(ovseg, "load", lambda name, **given: [asked.update(given), bounded][1])
    command = [
        "segment",
        str(tmp_path / "photos"),
        *LABELS,
        "--out",
        str(tmp_path / "out"),
        "--max-memory",
        "200MB",
    ]
    done = CliRunner().invoke(build_app(), command)
    assert asked["max_memory"] == "200MB" and done.exit_code == 1
    assert "2 of 3 images done" in done.stderr and "huge.png' has 9000 x 6000 pixels, which need at" in done.stderr
    for seed in range(2):
        found = ovseg.SegmentationResult.load(tmp_path / f"out/{seed}.json")
        assert np.array_equal(found.index_map, segmenter.segment(photo(seed), LABELS).index_map)


def test_labels_that_cannot_fit_are_refused_before_they_are_encoded(segmenter: Segmenter) -> None:
    class Unasked:
        space = "toy:colours"

        def encode(self, phrases: Sequence[str]) -> Tensor:
            raise AssertionError("no word is encoded")

    model = replace(segmenter.model, text=Unasked)
    bounded = Segmenter(model, device=segmenter.device, memory=replace(bound(segmenter), total=160_000_000))
    labels = [f"thing {number}" for number in range(10_000)]
    with pytest.raises(VocabularyError, match=r"10000 labels need at least .* MB for the smallest photo, got max"):
        bounded.segment(photo(), labels)


def test_a_model_that_cannot_fit_is_refused_when_it_is_loaded(segmenter: Segmenter) -> None:
    with pytest.raises(ModelError, match="model 'toy' needs at least 152 MB beside its weights, got max_memory=1"):
        bound(segmenter, 1_000_000)
    with pytest.raises(ModelError, match="model 'mini' needs at least"):
        load("mini", device="cpu", max_memory="1MB")


def test_a_segmenter_with_other_settings_keeps_the_bound(segmenter: Segmenter) -> None:
    bounded = within(segmenter, 10**10).with_input(short_side=128)
    assert bounded.memory is not None and bounded.memory.total == 10**10
    assert bounded.memory.config.input.short_side == 128


def test_a_photo_that_is_encoded_already_is_held_against_the_bound_with_all_its_labels(
    segmenter: Segmenter,
) -> None:
    asked = Asked.of(segmenter.queries(LABELS, background="auto"), keep_scores=True)
    bounded = within(segmenter, bound(segmenter).least((960, 1200), asked) - 1)
    encoded = bounded.encode(photo(size=(960, 1200)))
    assert bounded.segment(encoded, LABELS).index_map.shape == (960, 1200)
    with pytest.raises(TooLargeError, match=r"the image has 1200 x 960 pixels, .* their scores kept, got"):
        bounded.segment(encoded, LABELS, keep_scores=True)
    with pytest.raises(TooLargeError, match=r"need at least 5.* MB with 1 label and objects, got"):
        bounded.select(photo(), positive=[(5, 5)])  # asks a SAM
    assert bounded.select(photo(), positive=[(5, 5)], using="features").mask.shape == (96, 120)


def test_what_a_caller_holds_meanwhile_counts(segmenter: Segmenter) -> None:
    memory = bound(segmenter)
    alone = memory.least((100, 200), Asked(rows=10))
    assert memory.least((100, 200), Asked(rows=10, beside=5)) == alone + 5 * 100 * 200
    # 64 x 128 pixels of input, 8 x 16 cells of 10 class maps; twice
    remembered = 2 * (memory.kept * 64 * 128 + 4 * 10 * 8 * 16)
    assert memory.least((100, 200), Asked(rows=10, remembered=2)) == alone + remembered


_MEASURED = """
import sys
from pathlib import Path
import numpy as np
import ovseg


def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


segmenter = ovseg.load("mini", device="cpu", cache=sys.argv[1], max_memory=sys.argv[2])
photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8).repeat(100, 0).repeat(100, 1)
labels = [f"thing {number}" for number in range(1000)]
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
result = segmenter.segment(photo, labels)
result.save(sys.argv[1])
print(resident("VmHWM") - before, result.index_map.shape)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_a_large_photo_with_a_thousand_labels_stays_within_the_bound(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MEASURED, str(tmp_path), "1GB"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    held, shape = done.stdout.split(maxsplit=1)
    assert shape.strip() == "(3000, 4000)"
    assert int(held) < 10**9
