import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, features

from ovseg.errors import ImageError, ShapeError
from ovseg.images.find import find_images
from ovseg.images.geometry import ImageGeometry
from ovseg.images.load import load_image
from ovseg.images.resize import prepare, restore, working_size


@dataclass(frozen=True)
class Spec:
    mean: tuple[float, float, float] = (0.5, 0.4, 0.3)
    std: tuple[float, float, float] = (0.2, 0.25, 0.5)
    interpolation: str = "bicubic"
    stride: int = 16


def gradient(height: int, width: int) -> npt.NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5 % 256, columns * 7 % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_path_bytes_stream_pil_and_array_give_the_same_pixels(tmp_path: Path) -> None:
    pixels = gradient(7, 11)
    image = Image.fromarray(pixels)
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), image, pixels):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, pixels)


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic", "a.heic' is HEIC; convert it to JPEG.*register_heif_opener"),
        ("a.jpg", b"\0\0\0\x18ftypmif1", "a.jpg' is HEIC"),
        ("a.cr3", b"\0\0\0\x18ftypcrx ", "is camera raw; develop it"),
        ("a.nef", b"MM\0*", "is camera raw; develop it"),
        ("a.jxl", b"\xff\n", "is JPEG XL"),
        ("a.pdf", b"%PDF-1.7", "is a PDF; export its pages"),
        ("a.svg", b"<?xml version", "is an SVG drawing; export it"),
        ("a.mp4", b"\0\0\0\x18ftypisom", "is a video; give it to 'ovseg video'"),
        ("a.mov", b"\0\0\0\x18ftypqt  ", "is a video"),
        ("a.avif", b"\0\0\0\x18ftypavif", "is AVIF; update Pillow"),
        ("a.avi", b"RIFF\0\0\0\0AVI LIST", "is a video"),
        ("a.webp", b"RIFF\0\0\0\0WEBPVP8", "a.webp' begins with b'RIFF"),
        ("a.jpg", b"hello", "a.jpg' begins with b'hello"),
    ],
)
def test_a_format_that_needs_another_decoder_is_named(tmp_path: Path, name: str, head: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(head + bytes(32))
    with pytest.raises(ImageError, match=message):
        load_image(tmp_path / name)


@pytest.mark.parametrize("named_raw", [True, False])
def test_the_preview_in_a_raw_file_is_not_taken_for_the_photo(tmp_path: Path, named_raw: bool) -> None:
    tags = {} if named_raw else {50706: b"\1\4\0\0"}
    path = tmp_path / ("a.dng" if named_raw else "a.tif")
    Image.fromarray(gradient(8, 8)).save(path, "TIFF", tiffinfo=tags)
    with pytest.raises(ImageError, match="is camera raw"):
        load_image(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read() -> None:
    loaded = load_image(encoded(Image.new("RGB", (16, 8), (200, 100, 50)), "AVIF"))
    assert loaded.shape == (8, 16, 3) and abs(loaded.astype(int) - (200, 100, 50)).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_exif_orientation_is_applied_once(orientation: int, kind: str) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = (255, 0, 0)
    exif = Image.Exif()
    exif[274] = orientation
    loaded = load_image(encoded(Image.fromarray(pixels), kind, exif=exif))
    turns: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    expected = turns[orientation](pixels)
    assert loaded.shape == expected.shape
    assert np.abs(loaded.astype(int) - expected).mean() < 12


def test_unreadable_exif_does_not_stop_the_image() -> None:
    data = encoded(Image.fromarray(gradient(8, 8)), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff rubbish")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(data).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "PA"])
def test_every_common_mode_becomes_rgb(mode: str) -> None:
    loaded = load_image(Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode))
    assert loaded.shape == (3, 5, 3)
    assert loaded.min() >= 250


def test_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    loaded = load_image(encoded(red, "JPEG", quality=100)).astype(int)
    assert np.abs(loaded - [255, 0, 0]).max() < 20


def test_transparency_is_laid_over_white() -> None:
    half = load_image(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))
    assert abs(int(half[0, 0, 0]) - 127) <= 1
    np.testing.assert_array_equal(load_image(Image.new("LA", (2, 2), (0, 0))), 255)


def test_transparent_palette_entries_are_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(encoded(palette, transparency=b"\x00\xff"))
    assert loaded.tolist() == [[[255, 255, 255], [200, 0, 0]]]


def test_16_bit_grey_is_scaled_by_the_range_of_its_type() -> None:
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        loaded = load_image(encoded(Image.fromarray(grey), kind))
        assert loaded[0, :, 0].tolist() == [0, 1, 128, 255]


def test_grey_of_fewer_bits_in_16_is_scaled_by_the_bits_that_it_uses() -> None:
    for high, expected in (
        (4095, [0, 128, 255]),
        (2047, [0, 128, 255]),
        (255, [0, 128, 255]),
        (3000, [0, 93, 187]),
    ):
        grey = np.array([[0, (high + 1) // 2, high]], dtype=np.uint16)
        for source in (
            encoded(Image.fromarray(grey)),
            encoded(Image.fromarray(grey), "TIFF"),
            Image.fromarray(grey),
        ):
            assert load_image(source)[0, :, 0].tolist() == expected
    assert load_image(Image.fromarray(np.array([[0, 4096]], np.uint16)))[0, :, 0].tolist() == [0, 16]
    assert load_image(Image.fromarray(np.zeros((2, 2), np.uint16))).max() == 0


def test_the_white_that_a_tiff_states_counts() -> None:
    grey = Image.fromarray(np.array([[0, 5000, 10000]], dtype=np.uint16))
    assert load_image(encoded(grey, "TIFF", tiffinfo={281: (10000,)}))[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(encoded(grey, "TIFF", tiffinfo={281: (9999,)}))[0, :, 0].tolist() == [0, 19, 39]  # not true
    dark = Image.fromarray(np.array([[0, 4095]], dtype=np.uint16))
    assert load_image(encoded(dark, "TIFF", tiffinfo={281: (16380,)}))[0, :, 0].tolist() == [0, 64]


def with_significant_bits(png: bytes, bits: int) -> bytes:
    kind = b"sBIT" + bytes([bits])
    return png[:33] + (1).to_bytes(4, "big") + kind + zlib.crc32(kind).to_bytes(4, "big") + png[33:]


def test_the_bits_that_a_png_states_count_unless_its_values_are_scaled_already() -> None:
    grey = encoded(Image.fromarray(np.array([[0, 8192, 16383]], dtype=np.uint16)))
    assert load_image(with_significant_bits(grey, 14))[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(with_significant_bits(grey, 12))[0, :, 0].tolist() == [0, 32, 64]


def png16(values: npt.NDArray[np.uint16]) -> bytes:
    """A PNG file of (H, W, 2, 3 or 4) 16-bit values, which Pillow cannot write."""
    height, width, count = values.shape
    kind = {2: 4, 3: 2, 4: 6}[count]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    body = [len(c).to_bytes(4, "big") + k + c + zlib.crc32(k + c).to_bytes(4, "big") for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def test_colours_of_16_bits_are_scaled_as_grey_is() -> None:
    def loaded(*pixel: int) -> list[list[list[int]]]:
        return load_image(png16(np.array([[pixel]], np.uint16))).tolist()

    assert loaded(0, 2048, 4095) == [[[0, 128, 255]]]
    assert loaded(0, 32896, 65535) == [[[0, 128, 255]]]
    assert loaded(0, 0, 0) == [[[0, 0, 0]]]
    assert loaded(4096, 257, 383) == [[[16, 1, 1]]]  # 383 / 257 = 1.49; its upper byte alone would also be 1
    assert loaded(0, 386, 65535, 65535) == [[[0, 2, 255]]]  # 1.502: the lower byte counts
    assert loaded(0, 4095, 4095, 32896) == [
        [[127, 255, 255]]
    ]  # opacity is always of 16 bits: 32896 / 65535 = 0.502
    assert loaded(4095, 0) == [[[255, 255, 255]]] and loaded(4095, 65535) == [[[255, 255, 255]]]
    assert loaded(0, 65535) == [[[0, 0, 0]]]


def test_integers_beyond_16_bits_are_refused_without_a_range() -> None:
    wide = Image.fromarray(np.array([[-5, 70000]], dtype=np.int32))
    with pytest.raises(
        ImageError, match=r"must have grey values in 0\.\.65535, got -5\.\.70000; scale it.*--range"
    ):
        load_image(wide)
    assert load_image(wide, value_range=(-5, 70000))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4, 3), 1.5, np.float32),
        np.full((4, 4, 3), -0.1),
        np.full((4, 4, 3), np.nan),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), bool),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
    ],
)
def test_other_arrays_are_refused_with_shape_and_dtype(array: npt.NDArray[Any]) -> None:
    with pytest.raises(
        ImageError, match=r"must be \(H, W, 3\), \(H, W, 4\) or \(H, W\), uint8.*got \(.*convert it"
    ):
        load_image(array)


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.zeros((1, 9, 8), np.uint8), r"convert it with image\[0\]$"),
        (np.zeros((3, 9, 8), np.uint8), r"convert it with image\.transpose\(1, 2, 0\)$"),
        (np.zeros((1, 9, 8, 3), np.uint8), r"convert it to single images, image\[0\]$"),
        (np.zeros((1, 3, 9, 8), np.uint8), r"to single images, image\[0\], and transpose\(1, 2, 0\)$"),
        (np.zeros((5, 9, 8, 3), np.uint8), r"to single images, such as images\[0\]$"),
        (np.zeros((9, 8, 7), np.uint8), r"choose three of its bands with bands=\(3, 2, 1\)$"),
        (np.zeros((9, 8, 0), np.uint8), "convert it: it is empty"),
        (np.zeros((9, 8), bool), r"convert it with image\.astype\('uint8'\) \* 255$"),
        (
            np.full((9, 8), 4095, np.uint16),
            r"\(image / 65535\) where that is white, or say value_range=\(0, 65535\)$",
        ),
        (np.full((9, 8), 255, np.int32), r"convert it with image\.astype\('uint8'\) where 255 is white$"),
        (np.array([[-7, 300]]), r"or say which values are black and white with value_range=\(-7, 300\)$"),
        (np.array([[0.0, 200.0]]), r"from 0 to 200; convert it: \(image / 255\) where 255 is white"),
        (
            np.array([[0.0, 4000.0]]),
            r"convert it: \(image / 4000\) where that is white, or say value_range=\(0, 4000\)$",
        ),
        (np.array([[-2.0, 2.0]]), r"undo the normalization, or say value_range=\(-2, 2\)$"),
        (np.array([[0.5, np.nan]]), r"convert it with np\.nan_to_num\(image\)$"),
        (np.zeros((9, 8), complex), r"complex128; convert it to numbers$"),
        (np.zeros((9, 8), object), r"object; convert it to numbers$"),
        (
            np.ma.masked_equal(np.array([[0, 1]], np.uint8), 0),
            r"masked values; convert it with image\.filled\(0\)$",
        ),
    ],
)
def test_what_is_advised_for_an_array_makes_an_image_of_it(array: npt.NDArray[Any], hint: str) -> None:
    with pytest.raises(ImageError, match=hint):
        load_image(array)


def test_the_advice_for_arrays_gives_the_right_pixels() -> None:
    assert load_image(np.array([[False, True]]).astype("uint8") * 255)[0, :, 0].tolist() == [0, 255]
    assert load_image(np.array([[0, 32896, 65535]], np.uint16) / 65535)[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(np.array([[0, 32896, 65535]], np.uint16), value_range=(0, 65535))[0, 1, 0] == 128
    assert load_image(np.array([[False, True]]), value_range=(0, 1))[0, :, 0].tolist() == [0, 255]
    assert load_image(np.array([[-2.0, 0, 2]]), value_range=(-2, 2))[0, :, 0].tolist() == [0, 128, 255]


def test_tensors_of_other_kinds_are_taken_or_named() -> None:
    grey = torch.tensor([[[0.0, 0.5, 1.0]]], dtype=torch.float64, requires_grad=True)  # (1, 1, 3): both ends
    assert load_image(grey.permute(1, 0, 2).reshape(1, 1, 3)[0])[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(torch.tensor([[[0.0, 0.5]]]).half()).tolist() == [[[0] * 3, [128] * 3]]  # (1, H, W)
    assert load_image(torch.zeros(3, 4, 5, dtype=torch.bfloat16)).shape == (4, 5, 3)
    sentinel = torch.arange(7, dtype=torch.int32)[:, None, None].expand(7, 20, 30) * 100
    assert load_image(sentinel, bands=(4, 3, 2), value_range=(0, 600))[0, 0].tolist() == [128, 85, 43]
    for tensor, hint in (
        (torch.zeros(1, 3, 5, 7), r"pass one image at a time, such as tensor\[0\]$"),
        (torch.zeros(4, 3, 5, 7), r"such as tensor\[0\], or segment_batch\(tensor\)$"),
        (torch.zeros(3, 5, 3), r"both ends could be channels: pass an \(H, W, 3\) NumPy array$"),
        (torch.zeros(7, 20, 30), r"choose three of its bands with bands=\(3, 2, 1\)$"),
        (torch.zeros(9), "reshape it"),
        (torch.zeros(3, 5, 7, device="meta"), "must have plain values, got torch.strided torch.float32 on meta"),
        (torch.zeros(5, 7).to_sparse(), "must have plain values, got torch.sparse_coo"),
        (torch.zeros(3, 5, 7, dtype=torch.bool), r"bool; convert it with image\.astype"),
    ):
        with pytest.raises(ImageError, match=hint):
            load_image(tensor)


def test_an_object_that_is_almost_an_array_is_told_how_to_become_one() -> None:
    class Lazy:
        def __array__(self) -> None: ...

    with pytest.raises(ImageError, match=r"got Lazy; convert it with np\.asarray\(image\)"):
        load_image(Lazy())  # type: ignore[arg-type]


def test_floats_in_0_to_1_and_opacity_are_taken() -> None:
    floats = np.array([[[0, 0.5, 1], [0.2, 0.4, 0.6]]], np.float32)
    assert load_image(floats).tolist() == [[[0, 128, 255], [51, 102, 153]]]
    assert load_image(floats.astype(np.float64)[:, :, :1]).tolist() == [[[0] * 3, [51] * 3]]
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], np.uint8)
    assert load_image(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 224, 244]]]
    np.testing.assert_array_equal(load_image(rgba), load_image(Image.fromarray(rgba)))


def test_tensors_are_taken_where_their_channels_are_clear() -> None:
    pixels = gradient(5, 7)
    tensor = torch.from_numpy(pixels)
    for same in (
        tensor,
        tensor.permute(2, 0, 1),
        tensor.permute(2, 0, 1).float() / 255,
        (tensor / 255).requires_grad_(),
    ):
        np.testing.assert_array_equal(load_image(same), pixels)
    for shape in ((3, 5, 3), (2, 5, 7), (1, 3, 5, 7)):
        with pytest.raises(ImageError, match=r"an image tensor must be \(3, H, W\)"):
            load_image(torch.zeros(shape))
    with pytest.raises(ImageError, match=r"from 0 to 255; convert it: \(image / 255\)"):
        load_image(tensor.float().clamp(0, 255) * 0 + torch.tensor([0.0, 255, 9]))


def test_grey_arrays_are_repeated_and_views_made_contiguous() -> None:
    assert load_image(np.full((3, 4), 7, np.uint8)).shape == (3, 4, 3)
    assert load_image(gradient(6, 6)[::2, ::-1]).flags.c_contiguous


def test_missing_empty_text_and_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello world, I am no picture")
    with pytest.raises(ImageError, match=r"no image file '.*absent\.jpg'; check the path"):
        load_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match=r"'.*empty\.jpg' is empty \(0 bytes\); fetch the file again"):
        load_image(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match=r"'.*text\.jpg' begins with b'hello wo', which Pillow cannot read"):
        load_image(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match="is a folder; give a file in it"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match=r"cannot read 'xxx.*: File name too long; check its name"):
        load_image("x" * 300)


def test_bad_objects_are_refused() -> None:
    with pytest.raises(ImageError, match=r"the image bytes is empty \(0 bytes\)"):
        load_image(b"")
    with pytest.raises(ImageError, match="must be opened in binary mode, got text; open it with mode 'rb'"):
        load_image(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="got int; convert it to one of these"):
        load_image(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_truncated_files_are_refused_and_named(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut\.jpg'"):
        load_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_damaged_bytes_give_pixels_or_an_image_error(kind: str) -> None:
    generator = np.random.default_rng(1)
    good = np.frombuffer(encoded(Image.fromarray(gradient(24, 24)), kind), np.uint8)
    for _ in range(60):
        bad = good.copy()
        bad[generator.integers(0, len(bad), 6)] = generator.integers(0, 256, 6)
        try:
            assert load_image(bad.tobytes(), max_pixels=10_000).ndim == 3
        except ImageError as error:
            assert "the image bytes" in str(error)


def test_too_many_pixels_are_refused_before_decoding_and_the_limit_is_said(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (300, 200)).save(path)
    with pytest.raises(ImageError, match=r"bomb\.png' has 300 x 200 pixels.*59999.*max_pixels=60000"):
        load_image(path, max_pixels=59_999)
    assert load_image(path, max_pixels=60_000).shape == (200, 300, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_pillows_own_limit_is_neither_used_nor_changed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    data = encoded(Image.new("L", (40, 30)), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(data).shape == (30, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_loading_in_threads_leaves_warning_filters_as_they_were() -> None:
    before = list(warnings.filters)
    data = encoded(Image.fromarray(gradient(40, 40)), "TIFF")
    threads = [threading.Thread(target=lambda: [load_image(data) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_callers_stream_and_image_stay_usable() -> None:
    stream = io.BytesIO(encoded(Image.fromarray(gradient(4, 4))))
    load_image(stream)
    assert not stream.closed
    image = Image.fromarray(gradient(4, 4))
    load_image(image)
    assert image.getpixel((0, 0)) == (0, 0, 0)


def test_find_images_takes_a_file_a_folder_or_a_pattern(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "deep/er/c.webp", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    assert find_images(tmp_path) == [tmp_path / name for name in ("a.png", "b.JPG", "deep/er/c.webp")]
    assert find_images(f"{tmp_path}/*") == [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert find_images(f"{tmp_path}/**/*.webp") == [tmp_path / "deep/er/c.webp"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "photo[1].jpg"
    path.touch()
    assert find_images(str(path)) == [path]


def test_finding_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"expected images in folder '.*', found none; known suffixes: \.avif"):
        find_images(tmp_path)
    with pytest.raises(ImageError, match=r"matches '.*/\*\.png'; check the spelling"):
        find_images(f"{tmp_path}/*.png")
    with pytest.raises(ImageError, match=r"matches 'xxx"):
        find_images("x" * 300)
    with pytest.raises(ImageError, match=r"got an empty text; name one"):
        find_images("")
    with pytest.raises(ImageError, match=r"got the address 'https://a\.b/c\.jpg'; download it"):
        find_images("https://a.b/c.jpg")


@pytest.mark.parametrize(
    ("original", "expected"),
    [((300, 600), (448, 896)), ((600, 300), (896, 448)), ((448, 448), (448, 448)), ((1, 1), (448, 448))],
)
def test_working_size_brings_the_short_side_to_its_length(
    original: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert working_size(original, short_side=448, max_long_side=None, stride=16) == expected


def test_working_size_caps_the_long_side_and_keeps_a_cell() -> None:
    assert working_size((20, 8000), short_side=448, max_long_side=1024, stride=16) == (16, 1024)
    assert working_size((300, 400), short_side=100, max_long_side=1000, stride=16) == (96, 128)
    assert max(working_size((100, 199), short_side=448, max_long_side=500, stride=16)) <= 500


def test_working_size_refuses_sizes_below_one() -> None:
    with pytest.raises(ShapeError, match=r"original must be two whole numbers of at least 1, got \(0, 5\)"):
        working_size((0, 5), short_side=10, max_long_side=None, stride=1)


def test_prepare_normalises_and_pads_with_the_mean_colour() -> None:
    pixels, geometry = prepare(gradient(30, 50), Spec(), size=(40, 50))
    assert pixels.shape == (1, 3, 48, 64)
    assert pixels.dtype == torch.float32
    assert geometry == ImageGeometry((30, 50), (40, 50), (48, 64))
    assert not pixels[..., 40:, :].any()
    assert not pixels[..., 50:].any()


def test_prepare_without_resizing_is_the_formula() -> None:
    image, spec = gradient(16, 32), Spec()
    pixels, _ = prepare(image, spec, size=(16, 32))
    expected = (image / 255 - spec.mean) / spec.std
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_prepare_resizes_with_antialiasing() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels, _ = prepare(stripes, Spec(mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear"), size=(16, 16))
    assert float((pixels - 0.5).abs()[..., 2:-2].max()) < 0.02


def test_prepare_refuses_other_images_and_interpolations() -> None:
    with pytest.raises(ShapeError, match=r"image must be \(H, W, 3\) uint8, got \(3, 4, 4\) float32; use load"):
        prepare(np.zeros((3, 4, 4), np.float32), Spec(), size=(4, 4))
    with pytest.raises(ShapeError, match="interpolation must be one of bilinear, bicubic, opencv, got 'nearest'"):
        prepare(gradient(4, 4), Spec(interpolation="nearest"), size=(8, 8))


def test_geometry_refuses_padding_below_the_resized_size() -> None:
    with pytest.raises(ShapeError, match=r"padded must be at least resized \(8, 9\), got \(8, 8\)"):
        ImageGeometry((4, 4), (8, 9), (8, 8))
    with pytest.raises(ShapeError, match=r"resized must be two whole numbers of at least 1, got \(8, 0\)"):
        ImageGeometry((4, 4), (8, 0), (8, 8))


def test_restore_equals_interpolate_when_nothing_was_padded() -> None:
    maps = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    restored = restore(maps, ImageGeometry((33, 21), (40, 32), (40, 32)), stride=8)
    expected = torch.nn.functional.interpolate(maps, size=(33, 21), mode="bilinear", align_corners=False)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=1e-5)


def test_restore_drops_the_padding() -> None:
    maps = torch.zeros(1, 1, 4, 4)
    maps[..., 3, :] = 100
    maps[..., :, 3] = 100
    restored = restore(maps, ImageGeometry((200, 100), (16, 16), (32, 32)), stride=8)
    assert restored.shape == (1, 1, 200, 100)
    assert not restored.any()


def test_restore_puts_a_cell_where_its_pixels_were() -> None:
    maps = torch.zeros(1, 1, 6, 4)
    maps[0, 0, 1, 2] = 1
    restored = restore(maps, ImageGeometry((60, 40), (90, 60), (96, 64)), stride=16)
    row, column = divmod(int(restored.argmax()), 40)
    assert abs((row + 0.5) * 1.5 - 24) < 1
    assert abs((column + 0.5) * 1.5 - 40) < 1


def test_restore_refuses_maps_of_another_grid() -> None:
    with pytest.raises(ShapeError, match=r"maps must be \(B, K, h=4, w=4\), got \(1, 1, 4, 5\)"):
        restore(torch.zeros(1, 1, 4, 5), ImageGeometry((9, 9), (32, 32), (32, 32)), stride=8)
