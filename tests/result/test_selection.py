"""What a selection is and what can be made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import ConfigError, OutputError, ShapeError, VocabularyError
from ovseg.result import Selection, SelectionPrompts
from ovseg.result.selection import Reading
from ovseg.vocabulary.labels import Concept

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def selection(mask: np.ndarray, *, prompts: SelectionPrompts | None = None) -> Selection:
    whole, part, subpart = (Reading(rectangle(0, 0, side, side), side / 20) for side in (18, 9, 3))
    levels = {"whole": whole, "part": part, "subpart": subpart}
    given = prompts or SelectionPrompts(positive=((5.5, 6.5),), negative=((25, 3),))
    return Selection(Reading(mask, 0.75), levels, None, prompts=given, image=IMAGE, using="features")


def test_a_selection_has_a_box_an_area_and_three_levels() -> None:
    made = selection(rectangle(4, 5, 10, 9))
    assert made.box == (4, 5, 10, 9) and made.area == 24 and made.score == 0.75
    assert made.at("whole").area == 18 * 18 and made.at("subpart").score == 3 / 20
    assert made.at("part").level == "part" and made.at("part").chosen and not made.chosen
    assert repr(made) == "Selection(20 x 30: 24 pixels, score 0.75, by features)"
    with pytest.raises(ConfigError, match="no level 'hole' of this selection; did you mean 'whole'"):
        made.at("hole")


def test_it_becomes_a_result_with_one_object() -> None:
    result = selection(rectangle(4, 5, 10, 9)).to_result("mug")
    assert result.count("mug") == 1 and result.instances is not None
    assert result.instances[0].box == (4, 5, 10, 9) and result.instances[0].score == 0.75
    assert np.array_equal(result["mug"], rectangle(4, 5, 10, 9))
    named = selection(rectangle(4, 5, 10, 9), prompts=SelectionPrompts(text=Concept("cup")))
    assert named.to_result().labels == ("cup",)


def test_it_becomes_a_visual_example_of_a_concept() -> None:
    concept = selection(rectangle(4, 5, 10, 9)).to_concept("mug")
    assert concept.label == "mug" and len(concept.images) == len(concept.masks) == 1
    assert concept.images[0] is IMAGE and np.array_equal(concept.masks[0], rectangle(4, 5, 10, 9))
    with pytest.raises(VocabularyError):
        selection(rectangle(4, 5, 10, 9)).to_concept(" ")


def test_its_files_are_the_mask_the_cut_out_and_the_overlay(tmp_path: Path) -> None:
    made = selection(rectangle(4, 5, 10, 9))
    files = made.save(tmp_path / "new" / "mug.png")
    assert [file.name for file in files] == ["mug.png", "mug_cutout.png", "mug_overlay.png"]
    with Image.open(files[0]) as mask:
        assert mask.mode == "L" and np.array_equal(np.array(mask), 255 * rectangle(4, 5, 10, 9).astype(np.uint8))
    with Image.open(files[1]) as cut:
        assert cut.mode == "RGBA" and cut.size == (6, 4)
        assert np.array_equal(np.array(cut)[..., :3], IMAGE[5:9, 4:10]) and (np.array(cut)[..., 3] == 255).all()
    with Image.open(files[2]) as overlay:
        assert overlay.getpixel((5, 6)) == (0, 158, 115) and overlay.getpixel((25, 3)) == (213, 94, 0)
    with pytest.raises(OutputError, match="let its name end in"):
        made.save(tmp_path / "mug.jpg")


def test_an_empty_one_has_no_box_and_nothing_to_cut_out(tmp_path: Path) -> None:
    empty = selection(np.zeros((20, 30), bool))
    assert empty.box is None and empty.area == 0 and empty.to_result().count("selection") == 0
    assert [file.name for file in empty.save(tmp_path / "mask.png")] == ["mask.png", "mask_overlay.png"]
    with pytest.raises(ShapeError, match="to cut out, got none"):
        empty.cutout()
    with pytest.raises(ShapeError, match="for the concept 'mug', got none"):
        empty.to_concept("mug")


def test_masks_of_another_size_and_scores_out_of_range_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"masks must be of \(20, 30\) pixels, got \(20, 20\)"):
        selection(np.zeros((20, 20), bool))
    with pytest.raises(ShapeError, match="score must be from 0 to 1"):
        Reading(np.zeros((2, 2), bool), 1.5)
    with pytest.raises(ShapeError, match=r"mask must be .* bool, got"):
        Reading(np.zeros((2, 2), np.uint8), 0.5)  # type: ignore[arg-type]
