"""What pandas, supervision and users of transformers get of a result."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.results import WILD, drawn

from ovseg.errors import MissingDependencyError
from ovseg.result import tables

RESULT = drawn(["aaB.", "a..B"], "road", "cup", "absent", things=["cup"], score=0.25)


def test_a_data_frame_has_a_row_for_each_label() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = RESULT.to_pandas()
    assert list(frame.columns) == ["label", "pixels", "area", "score", "presence", "objects"]
    assert frame.iloc[0].tolist()[:5] == ["road", 3, 0.375, 0.25, 0.75]
    assert frame["objects"].isna().tolist() == [True, False, True] and frame["objects"][1] == 1
    assert drawn(["."]).to_pandas().shape == (0, 6) and isinstance(frame, pandas.DataFrame)


def test_the_list_is_that_of_the_pipeline() -> None:
    cup, road = RESULT.to_huggingface()
    assert (cup["label"], cup["score"], road["label"], road["score"]) == ("cup", 0.5, "road", 0.25)
    assert road["mask"].mode == "L" and road["mask"].size == (4, 2)
    assert np.asarray(cup["mask"]).tolist() == [[0, 0, 255, 0], [0, 0, 0, 255]]
    assert drawn(["."], "cat").to_huggingface() == []


@pytest.mark.parametrize("many", [10, 64_000_000])
def test_supervision_gets_objects_and_areas(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    monkeypatch.setattr(tables, "_MANY", many)
    found = RESULT.to_supervision()
    assert isinstance(found.mask, sv.CompactMask) == (many == 10)
    masks = np.asarray(found.mask if many > 10 else found.mask.to_dense())
    np.testing.assert_array_equal(masks, [RESULT.instances[0].mask(), RESULT.mask("road")])
    np.testing.assert_array_equal(found.xyxy, sv.mask_to_xyxy(masks))
    assert found.xyxy.tolist() == [[2, 0, 3, 1], [0, 0, 1, 1]]
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([1, 0], [0.5, 0.25])
    assert found.data["class_name"].tolist() == ["cup", "road"]
    assert len(drawn(["."], *WILD).to_supervision()) == 0


@pytest.mark.parametrize(("package", "call"), [("supervision", "to_supervision"), ("pandas", "to_pandas")])
def test_a_missing_package_is_named(package: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingDependencyError, match=rf"'{package}', which is not .* pip install 'ovseg\[notebook\]'"
    ):
        getattr(RESULT, call)()
