"""Label Studio's code, read back by a decoder written from its description."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.brush import decode_brush

from ovseg.result.formats.brush import encode_brush


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_a_mask_comes_back(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((37, 53)) < share
    values = decode_brush(encode_brush(mask)).reshape(37, 53, 4)
    np.testing.assert_array_equal(values, np.repeat(mask[..., None] * 255, 4, axis=2))


def test_runs_longer_than_a_length_can_say_are_split() -> None:
    mask = np.zeros((200, 300), bool)
    mask[100:] = True
    np.testing.assert_array_equal(decode_brush(encode_brush(mask)).reshape(200, 300, 4)[..., 3] > 0, mask)


def test_the_bytes_of_one_pixel() -> None:
    # 4 values, 8 bits each, sizes 3 4 8 16; one run: "1" "00" "011" and 255
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "1" + "00" + "011" + "1" * 8
    bits += "0" * (-len(bits) % 8)
    assert encode_brush(np.ones((1, 1), bool)) == [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]


def test_label_studios_own_decoder_reads_it() -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="needs pip install label-studio-sdk")
    mask = np.random.default_rng(0).random((20, 30)) < 0.3
    np.testing.assert_array_equal(brush.decode_rle(encode_brush(mask)).reshape(20, 30, 4)[..., 3] > 0, mask)
