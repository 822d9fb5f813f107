"""Pictures of more than three bands and of more than eight bits: which become colours, and on which scale."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from ovseg.errors import ImageError
from ovseg.images.load import load_image, read_image
from ovseg.images.reading import Reading

UNSPECIFIED = {"photometric": "rgb", "extrasamples": ["unspecified"]}
STACK: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
METADATA = "<GDALMetadata>" + "".join(
    f'<Item name="DESCRIPTION" sample="{band}" role="description">{name}</Item>'
    for band, name in enumerate(("blue", "green", "red", "nir"))
)


def tif(values: npt.NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def four(kind: type = np.uint8) -> npt.NDArray[Any]:
    """(2, 3, 4) of bands 10, 20, 30, 200."""
    return np.tile(np.array([10, 20, 30, 200], kind), (2, 3, 1))


def first(source: Any, **options: Any) -> list[int]:
    return load_image(source, **options)[0, 0].tolist()


def test_a_fourth_band_is_opacity_only_where_the_file_says_so() -> None:
    assert first(tif(four(), **UNSPECIFIED)) == [10, 20, 30]
    assert first(tif(four(), photometric="rgb", extrasamples=["unassalpha"])) == [
        63,
        71,
        79,
    ]  # 10·0.784 + 255·0.216
    assert first(tif(four() // 2, photometric="rgb", extrasamples=["assocalpha"])) == [160, 165, 170]  # 5 + 155
    wide = four(np.uint16) * 257
    assert first(tif(wide, **UNSPECIFIED)) == [10, 20, 30]
    assert first(tif(wide, photometric="rgb", extrasamples=["unassalpha"])) == [63, 71, 79]
    note = read_image(tif(four(), **UNSPECIFIED)).note
    assert note == "band 4 is left out, the file does not say that it is opacity"


def test_a_fourth_band_without_any_statement_is_not_blended() -> None:
    stream = io.BytesIO()
    Image.fromarray(four()).save(stream, "TIFF")
    data = bytearray(stream.getvalue())
    place = data.find((338).to_bytes(2, "little"))
    data[place : place + 2] = (33000).to_bytes(2, "little")  # the tag ExtraSamples becomes one that nobody knows
    assert Image.open(io.BytesIO(data)).mode == "RGBA"  # what Pillow guesses
    assert first(bytes(data)) == [10, 20, 30]
    assert first(Image.open(io.BytesIO(data))) == [10, 20, 30]


def test_a_fourth_band_of_a_compressed_file_is_left_out_or_chosen() -> None:
    stream = io.BytesIO()
    Image.fromarray(four()).save(stream, "TIFF", compression="tiff_lzw")
    data = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages.first.tags[338].valueoffset
    data[place : place + 2] = bytes(2)  # ExtraSamples: unspecified
    assert first(bytes(data)) == [10, 20, 30]
    assert first(bytes(data), bands=(4, 3, 2)) == [200, 30, 20]
    planes = tif(np.zeros((8, 9, 5), np.uint8), **STACK, compression="zlib")
    codec = planes.replace(b"\x03\x01\x03\x00\x01\x00\x00\x00\x08\x00", b"\x03\x01\x03\x00\x01\x00\x00\x00\x05\x00")
    assert codec != planes  # it claims to be LZW
    with pytest.raises(ImageError, match="compression of the image bytes needs the package imagecodecs"):
        load_image(codec, bands=(1, 2, 3))


@pytest.mark.parametrize("options", [UNSPECIFIED, STACK, {"photometric": "rgb"}, {**STACK, "compression": "zlib"}])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
def test_bands_are_chosen_by_number(options: dict[str, Any], kind: type) -> None:
    source = tif(four(kind), **options)
    assert first(source, bands=(4, 1, 3), value_range=(0, 255)) == [200, 10, 30]
    assert first(source, bands=[2], value_range=[0, 255]) == [20, 20, 20]
    with pytest.raises(ImageError, match=r"has 4 bands \(1.*4.*\), got bands 5,1,1; choose among these"):
        load_image(source, bands=(5, 1, 1))


def test_bands_of_planes_pages_and_other_formats_are_chosen_too() -> None:
    planes = np.ascontiguousarray(four().transpose(2, 0, 1))
    assert first(tif(planes, photometric="minisblack", planarconfig="separate"), bands=(3, 2, 1)) == [30, 20, 10]
    pages = tif(planes, photometric="minisblack")
    assert first(pages, bands=(3, 2, 4)) == [30, 20, 200]
    assert read_image(pages).note == "page 1 of 4 is read" and first(pages) == [10, 10, 10]
    stream = io.BytesIO()
    Image.fromarray(four()).save(stream, "PNG")
    assert first(stream.getvalue(), bands=(4, 3, 2)) == [200, 30, 20]
    assert first(four(), bands=(4, 3, 2)) == [200, 30, 20]  # an array
    assert first(Image.fromarray(four()[..., 0]), bands=(1, 1, 1)) == [10, 10, 10]


def test_other_numbers_of_bands_are_refused_with_their_names() -> None:
    with pytest.raises(ImageError, match=r"has 4 bands \(1 blue, 2 green, 3 red, 4 nir\).*choose them with bands="):
        load_image(tif(four(), **STACK, extratags=[(42112, "s", 0, METADATA, True)]))
    for count in (2, 5):
        stack = np.zeros((2, 3, count), np.uint16)
        with pytest.raises(
            ImageError, match=rf"has {count} bands \(1, 2.*does not say which are red.*--bands 3,2,1"
        ):
            load_image(tif(stack, **STACK))
    three = read_image(tif(four(np.uint16)[..., :3] * 257, **STACK))
    assert (
        three.pixels[0, 0].tolist() == [10, 20, 30] and "bands 1, 2, 3 are taken for red, green, blue" in three.note
    )


def test_a_range_sets_black_and_white_and_clips() -> None:
    grey = np.array([[0, 1000, 2000, 3000, 4095]], np.uint16)
    for source in (tif(grey), Image.fromarray(grey), grey):
        found = read_image(source, Reading((1000, 3000)))
        assert found.pixels[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert read_image(tif(grey), Reading((1000, 3000))).note == (
        "values are scaled as 1000..3000, as given, which clips 40.0% of them"
    )
    assert read_image(tif(grey), Reading((0, 4095))).note == ""
    assert first(np.full((2, 2, 3), 7, np.int64), value_range=(0, 14)) == [128, 128, 128]
    assert first(np.full((2, 2), 50, np.uint8), value_range=(0, 100)) == [128, 128, 128]


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        ([0, 0.5, 1], [0, 128, 255], "scaled as 0..1, as its own values from 0 to 1 lie there"),
        ([0.25, 0.25, 0.5], [64, 64, 128], "scaled as 0..1, as its own values from 0.25 to 0.5"),
        ([10, 15, 20], [0, 128, 255], "scaled as 10..20, its own least and largest"),
        ([-1, 0, 1], [0, 128, 255], "scaled as -1..1, its own least and largest"),
        ([np.nan, 5, 10], [0, 0, 255], "scaled as 5..10"),
        ([7, 7, 7], [0, 0, 0], "scaled as 7..7"),
    ],
)
def test_floats_are_scaled_by_what_is_known_and_it_is_told(values: Any, expected: list[int], note: str) -> None:
    for kind in (np.float32, np.float64, np.float16):
        found = read_image(tif(np.array([values], kind)))
        assert found.pixels[0, :, 0].tolist() == expected and note in found.note and "--range LO,HI" in found.note
    if not np.isnan(values).any():
        assert load_image(Image.fromarray(np.array([values], np.float32)))[0, :, 0].tolist() == expected


def test_the_range_that_a_float_file_states_counts_and_no_data_does_not() -> None:
    stated = tif(np.array([[0, 50]], np.float32), extratags=[(340, "f", 1, 0.0, True), (341, "f", 1, 200.0, True)])
    assert load_image(stated)[0, :, 0].tolist() == [0, 64] and "as the file states" in read_image(stated).note
    for kind in (np.float32, np.int16):
        missing = tif(np.array([[-9999, 0, 255]], kind), extratags=[(42113, "s", 6, "-9999", True)])
        assert load_image(missing)[0, :, 0].tolist() == [0, 0, 255]
    with pytest.raises(ImageError, match="must have values, got none that is a number"):
        load_image(tif(np.full((2, 2), np.nan, np.float32)))


def test_signed_and_inverted_grey_is_not_misread() -> None:
    for kind in (np.int8, np.int16):
        signed = tif(np.array([[-5, 5]], kind))
        with pytest.raises(ImageError, match=r"got -5\.\.5; scale it to 16 or 8 bits first, or say their range"):
            load_image(signed)
        assert load_image(signed, value_range=(-5, 5))[0, :, 0].tolist() == [0, 255]
    inverted = tif(np.array([[0, 65535]], np.uint16), photometric="miniswhite")
    assert load_image(inverted)[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_in_their_own_bands_are_turned_as_others_are(orientation: int) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    options: dict[str, Any] = {"photometric": "rgb", "extratags": [(274, "H", 1, orientation, True)]}
    plain = load_image(tif(pixels, **options))
    fourth = np.concatenate([pixels, pixels[..., :1]], -1)
    np.testing.assert_array_equal(load_image(tif(fourth, **options), bands=(1, 2, 3)), plain)
    np.testing.assert_array_equal(load_image(tif(pixels.astype(np.uint16) * 257, **options)), plain)


def test_what_no_range_and_no_bands_are_is_said() -> None:
    for wrong in ((1,), (5, 5), (9, 1), (0, np.inf), ("a", 1), 7, "0,1"):
        with pytest.raises(ImageError, match="a range must be two numbers, the lower first"):
            load_image(four(), value_range=wrong)  # type: ignore[arg-type]
    for wrong in ((), (1, 2), (0, 1, 2), (1.5,), ("r", "g", "b"), (1, 2, 3, 4)):
        with pytest.raises(ImageError, match="bands must be three whole numbers"):
            load_image(four(), bands=wrong)  # type: ignore[arg-type]


def test_arrays_whose_bands_come_first_are_refused_with_what_to_do() -> None:
    with pytest.raises(
        ImageError, match=r"must be its last axis.*got \(4, 20, 30\); convert it with image.transpose"
    ):
        load_image(np.zeros((4, 20, 30), np.uint16), bands=(3, 2, 1), value_range=(0, 1))
    with pytest.raises(ImageError, match=r"the array has 4 bands \(1, 2, 3, 4\).*choose them"):
        load_image(np.zeros((20, 30, 4), np.uint16), value_range=(0, 1))


def test_damaged_and_large_files_of_many_bands_are_named(tmp_path: Path) -> None:
    data = tif(np.random.default_rng(0).integers(0, 99, (40, 40, 5), np.uint8), **STACK)
    path = tmp_path / "a.tif"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"a\.tif' (is cut off or damaged|begins with)"):
        load_image(path, bands=(1, 2, 3))
    with pytest.raises(ImageError, match="has 40 x 40 pixels, more than the limit of 100"):
        load_image(data, bands=(1, 2, 3), max_pixels=100)
