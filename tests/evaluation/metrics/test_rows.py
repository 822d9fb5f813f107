from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.evaluation.metrics.rows import ImageRow

REAL = st.floats(0, 1e12, allow_nan=False)
WHOLE = st.integers(-1, 2**50)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(WHOLE, WHOLE, WHOLE)),
    st.lists(st.tuples(REAL, REAL, REAL)),
    REAL,
    st.none() | st.just((2, 5)),
)
def test_a_row_comes_back_from_json_with_every_digit(
    pairs: list[tuple[int, ...]],
    calibration: list[tuple[float, ...]],
    seconds: float,
    claimed: tuple[int, ...] | None,
) -> None:
    row = ImageRow(
        "å\n\udcff",
        np.array(pairs, np.int64).reshape(-1, 3),
        (0, 2, 5),
        seconds,
        boundary=np.arange(14).reshape(2, 7),
        calibration=np.array(calibration, np.float64).reshape(-1, 3),
        claimed=claimed,
        content="ab",
    )
    back = ImageRow.from_dict(json.loads(json.dumps(row.to_dict())))
    assert (back.name, back.candidates, back.seconds) == (row.name, row.candidates, row.seconds)
    assert (back.claimed, back.content) == (row.claimed, row.content)
    for name in ("pairs", "boundary", "calibration"):
        kept, made = getattr(back, name), getattr(row, name)
        assert kept.dtype == made.dtype and kept.shape == made.shape and np.array_equal(kept, made)


def test_a_row_of_an_earlier_version_has_no_content() -> None:
    values = ImageRow("a", np.array([[0, 0, 9]]), (0,), 0.5).to_dict()
    del values["content"]
    assert ImageRow.from_dict(values).content == ""


def test_tables_of_objects_come_back_and_their_classes_are_checked() -> None:
    tables = {"panoptic": np.arange(9.0)[None], "found": np.full((2, 10), 0.1), "true": np.full((1, 5), -1.0)}
    tables["found"][:, 0] = -1
    tables["true"][:, 1:] = 3
    row = ImageRow("a", np.array([[0, 0, 9]]), (0,), 0.5, tables=tables)
    row.check(1)
    back = ImageRow.from_dict(json.loads(json.dumps(row.to_dict())))
    assert back.tables.keys() == tables.keys()
    assert all(np.array_equal(back.tables[name], table) for name, table in tables.items())
    for name, place in (("panoptic", (0, 0)), ("found", (1, 0)), ("true", (0, 2))):
        wrong = {**tables, name: tables[name].copy()}
        wrong[name][place] = -2
        with pytest.raises(ValueError, match="of 'a' must"):
            ImageRow("a", row.pairs, (0,), 0.5, tables=wrong).check(1)
    with pytest.raises(KeyError, match="other"):
        ImageRow.from_dict(row.to_dict() | {"tables": {"other": "1"}})
