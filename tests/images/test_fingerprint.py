import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.fft import dctn

from ovseg.images.fingerprint import BYTES, CHANGES, fingerprint, variants

Pixels = npt.NDArray[np.uint8]


def picture(seed: int, height: int = 60, width: int = 90) -> Pixels:
    """Smooth random blobs, as photos are."""
    small = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def changed(pixels: Pixels) -> list[Pixels]:
    """In the order of ``CHANGES``."""
    return [
        pixels,
        pixels[:, ::-1],
        pixels[::-1],
        pixels[::-1, ::-1],
        pixels.swapaxes(0, 1),
        np.rot90(pixels, -1),
        np.rot90(pixels),
        pixels[::-1, ::-1].swapaxes(0, 1),
    ]


def distance(first: Pixels, second: Pixels) -> int:
    return int(np.bitwise_count(first ^ second).sum())


def test_the_bits_are_the_signs_of_the_slowest_waves() -> None:
    small = Image.fromarray(picture(0)).convert("L").resize((32, 32), Image.Resampling.HAMMING)
    grey = np.asarray(small, np.float64)
    angles = (np.arange(32) + 0.5) * np.pi / 32
    bits = np.unpackbits(fingerprint(picture(0)))
    for u, v in ((0, 1), (1, 0), (3, 7), (11, 11)):
        wave = np.outer(np.cos(u * angles), np.cos(v * angles))
        assert bits[12 * u + v] == ((grey * wave).sum() > 0) == (dctn(grey)[u, v] > 0)
    assert len(bits) == 8 * BYTES and not bits[0] and not bits[144:].any()


@pytest.mark.parametrize("change", range(8))
def test_the_fingerprint_of_a_changed_picture_is_known_without_it(change: int) -> None:
    for seed in range(4):
        pixels = picture(seed)
        after = fingerprint(np.ascontiguousarray(changed(pixels)[change]))
        assert distance(after, variants(fingerprint(pixels)[None])[change, 0]) <= 2, CHANGES[change]
        others = [distance(after, variants(fingerprint(picture(seed + 9))[None])[each, 0]) for each in range(8)]
        assert min(others) > 40


def test_grey_size_brightness_and_storing_again_leave_it() -> None:
    pixels = picture(5)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=50)
    grey = np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None], 3, axis=2)
    double = np.asarray(Image.fromarray(pixels).resize((180, 120)))
    for copy in (np.asarray(Image.open(stream)), grey, double, (pixels * 0.7).astype(np.uint8)):
        assert distance(fingerprint(copy), fingerprint(pixels)) <= 12


def test_a_flat_picture_has_no_look_and_no_variants() -> None:
    for value in (0, 128, 255):
        flat = fingerprint(np.full((40, 50, 3), value, np.uint8))
        assert not flat.any() and not variants(flat[None]).any()
