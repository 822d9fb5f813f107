"""Label maps as text and back, against the text that Text4Seg's code writes and reads."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.golden import Case

from ovseg.result import descriptors

TEXTS = sorted(Case("text4seg").facts["texts"])


def words_of(text: str) -> list[list[str]]:
    """The word of each cell, row by row."""
    found, names = descriptors.decode(text, labels=None, size=None)
    return [[descriptors.OTHERS if index < 0 else names[index] for index in row] for row in found.tolist()]


@pytest.mark.parametrize("name", TEXTS)
def test_rows_are_those_of_the_released_code(name: str) -> None:
    case = Case("text4seg")
    known, numbers = case.facts["texts"][name], case[f"input.map_{name}"].numpy()
    labels = [word for word in known["words"] if word != descriptors.OTHERS]
    places = np.array([labels.index(word) if word in labels else -1 for word in known["words"]], dtype=np.int32)
    text = descriptors.encode(places[numbers], labels, grid=numbers.shape)
    # the release puts a blank before each later row and a line break at the end
    assert text.replace("\n", "\n ") + "\n" == known["encoded"]


@pytest.mark.parametrize("name", TEXTS)
def test_released_text_is_read_word_by_word(name: str) -> None:
    case = Case("text4seg")
    known, numbers = case.facts["texts"][name], case[f"input.map_{name}"].tolist()
    cells = words_of(known["encoded"])
    assert cells == [[known["words"][number] for number in row] for row in numbers]
    if known["decoded"] is not None:
        assert "|".join(word for row in cells for word in row) == known["decoded"]
    labels = {word: number for number, word in enumerate(known["words"][:-1])}  # the last is not known
    without = [[labels.get(word, 0) for word in row] for row in cells]
    assert without == case[f"expected.decoded_unknown_{name}"].tolist()
