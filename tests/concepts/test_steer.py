"""Concepts that a person steers: accepted and rejected seeds, and pictures of the concept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import COLOURS, paint
from PIL import Image

from ovseg.bank import ImageBank
from ovseg.concepts import ConceptSet, learn_concepts, refine_concepts
from ovseg.concepts.concept_set import Seed
from ovseg.concepts.look import Looker, mark_alike
from ovseg.concepts.options import LearnOptions
from ovseg.concepts.steer import Decision, Steering, read_decisions, remembered
from ovseg.errors import DatasetError, ImageError, ModelError, VocabularyError
from ovseg.images.sheets import evidence_tile
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Concept
from ovseg.weights import load_weights, save_weights

FEW = LearnOptions(negatives=8)
GREEN = "01-green-blue.png"


@pytest.fixture(scope="module")
def learned(bank: ImageBank) -> ConceptSet:
    return learn_concepts(["red"], bank, k=6, options=FEW)


def names(seeds: tuple[Seed, ...], verdict: str = "") -> set[str]:
    return {Path(seed.path).name for seed in seeds if seed.verdict == verdict}


def colour_at(seed: Seed) -> tuple[int, ...]:
    pixels = np.asarray(Image.open(seed.path))
    height, width = pixels.shape[:2]
    return tuple(pixels[int(seed.row * height), int(seed.column * width)].tolist())


def test_without_decisions_a_concept_is_learned_again_as_it_was(learned: ConceptSet, bank: ImageBank) -> None:
    again = refine_concepts(learned, bank, options=FEW)
    assert again.digest == learned.digest
    assert torch.equal(again["red"].embeddings, learned["red"].embeddings)


def test_a_rejected_image_never_counts_and_the_next_takes_its_place(learned: ConceptSet, bank: ImageBank) -> None:
    gone = learned["red"].seeds[0].path
    refined = refine_concepts(learned, bank, reject=[gone], options=FEW)["red"]
    live = [seed for seed in refined.seeds if not seed.verdict]
    assert gone not in {seed.path for seed in live}
    assert len(live) == 6
    (struck,) = [seed for seed in refined.seeds if seed.verdict == "rejected"]
    assert (struck.path, struck.row, struck.column, struck.reference, struck.agrees) == (gone, -1, -1, -1, False)


def test_rejected_images_are_negatives_of_the_calibration(
    learned: ConceptSet, bank: ImageBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cells outside grow by exactly those of the image, 24 × 24, and by none of another."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        "ovseg.concepts.learn.calibrate",
        lambda inside, outside: seen.append(outside) or (0.5, 0.1, 0.9),
    )
    none = replace(FEW, negatives=0)
    gone = learned["red"].seeds[0].path
    refined = refine_concepts(learned, bank, reject=[gone], options=none)["red"]
    look = Looker(bank, bank.segmenter, none)
    (maps,) = look.maps_of([bank.paths.index(gone)])
    expected = torch.einsum("rc,chw->rhw", refined.embeddings, maps).amax(0).flatten()
    torch.testing.assert_close(seen[0][-576:], expected)


def test_a_rejected_place_moves_the_seed_and_the_cells_like_it_become_negatives(
    learned: ConceptSet, bank: ImageBank
) -> None:
    seed = next(seed for seed in learned["red"].seeds if "red-green" in seed.path)
    key = f"{seed.path}:{seed.row:.2f},{seed.column:.2f}"
    refined = refine_concepts(learned, bank, reject=[key], options=FEW)["red"]
    here = [each for each in refined.seeds if each.path == seed.path]
    assert [each.verdict for each in here] == ["", "rejected"]
    red, green, _ = colour_at(here[0])
    assert red < green + 40  # no longer on the red square
    assert not here[0].agrees
    assert here[1].row == pytest.approx(seed.row, abs=0.005)


def test_accepted_seeds_always_count(bank: ImageBank) -> None:
    """Three green squares accepted as "zebra", which the text finds nowhere: their mean is the concept."""
    accept = [f"{number:02d}-green-blue.png" for number in (1, 7, 13)]
    places = [f"{name}:{row},{column}" for name, (row, column) in zip(accept, map(_green, accept), strict=True)]
    plain = learn_concepts(["zebra"], bank, k=4, options=FEW)["zebra"]
    told = learn_concepts(["zebra"], bank, k=4, options=FEW, accept=places)["zebra"]
    assert not plain.found
    sure = [seed for seed in told.seeds if seed.verdict == "accepted"]
    assert {Path(seed.path).name for seed in sure} == set(accept)
    assert all(seed.agrees and seed.reference == 0 for seed in sure)
    assert {seed.reference for seed in told.seeds if not seed.verdict} == {-1}
    assert int(told.embeddings.sum(0).argmax()) == 1  # green
    assert told.separation > 0.8
    images = len({seed.path for seed in told.seeds})
    assert told.purity == pytest.approx(3 / images)  # the accepted among all that were looked at


def _green(name: str) -> tuple[float, float]:
    """The middle of the green square of a picture of the bank, as ``paint`` placed it."""
    rng = np.random.default_rng(int(name[:2]))
    rng.integers(110, 130, (72, 96, 3), dtype=np.uint8)
    top, left = rng.integers(0, 36), rng.integers(0, 4)
    return round((top + 14) / 72, 3), round((left + 14) / 96, 3)


def test_an_accepted_image_keeps_the_seed_that_was_seen(learned: ConceptSet, bank: ImageBank) -> None:
    seed = learned["red"].seeds[2]
    refined = refine_concepts(learned, bank, accept=[Path(seed.path).name], options=FEW)["red"]
    (kept,) = [each for each in refined.seeds if each.verdict]
    assert (kept.path, kept.row, kept.column, kept.verdict) == (seed.path, seed.row, seed.column, "accepted")


def test_the_next_refinement_remembers_what_was_said_and_later_words_count_more(
    learned: ConceptSet, bank: ImageBank, tmp_path: Path
) -> None:
    first, second, third = (seed.path for seed in learned["red"].seeds[:3])
    once = refine_concepts(learned, bank, accept=[first], reject=[second], options=FEW)
    kept = ConceptSet.load(once.save(tmp_path / "c.safetensors"))
    assert kept.digest == once.digest
    twice = refine_concepts(kept, bank, reject=[third], options=FEW)["red"]
    assert names(twice.seeds, "accepted") == {Path(first).name}
    assert names(twice.seeds, "rejected") == {Path(second).name, Path(third).name}
    back = refine_concepts(once, bank, reject=[first], accept=[second], options=FEW)["red"]
    assert names(back.seeds, "accepted") == {Path(second).name}
    assert names(back.seeds, "rejected") == {Path(first).name}


def test_words_and_k_of_a_concept_count_on(bank: ImageBank, tmp_path: Path) -> None:
    concepts = learn_concepts([Concept("warm", synonyms=("red",), not_=("green",))], bank, k=4, options=FEW)
    loaded = ConceptSet.load(concepts.save(tmp_path / "c.safetensors"))
    assert (loaded["warm"].synonyms, loaded["warm"].not_, loaded["warm"].k) == (("red",), ("green",), 4)
    assert refine_concepts(loaded, bank, options=FEW).digest == concepts.digest


def test_only_the_named_concept_of_several_changes(bank: ImageBank) -> None:
    both = learn_concepts(["red", "blue"], bank, k=5, options=FEW, reject={"blue": [GREEN]})
    assert names(both["blue"].seeds, "rejected") == {GREEN}
    assert names(both["red"].seeds, "rejected") == set()
    refined = refine_concepts(both, bank, name="red", reject=[both["red"].seeds[0].path], options=FEW)
    assert refined.names == ("red", "blue")
    assert refined["blue"] is both["blue"]
    with pytest.raises(VocabularyError, match="the name of one of 2 concepts"):
        refine_concepts(both, bank, accept=[GREEN])
    with pytest.raises(VocabularyError, match="did you mean 'red'"):
        refine_concepts(both, bank, accept=[GREEN], name="rad")


def test_wrong_decisions_are_refused_by_name(learned: ConceptSet, bank: ImageBank) -> None:
    with pytest.raises(DatasetError, match=r"no image '01-green-blu\.png'; did you mean '01-green-blue\.png'"):
        refine_concepts(learned, bank, accept=["01-green-blu.png"])
    with pytest.raises(DatasetError, match=r"no image 'x/y\.png'.*bank\.paths lists"):
        refine_concepts(learned, bank, reject=["x/y.png:0.1,0.2"])
    for place in ("1.5,0.2", "0.1,-0.1", "nan,0.1", "inf,1"):
        with pytest.raises(VocabularyError, match=r"as fractions in \[0, 1\]"):
            refine_concepts(learned, bank, accept=[f"{GREEN}:{place}"])
    with pytest.raises(VocabularyError, match="accepted and rejected at once"):
        refine_concepts(learned, bank, accept=[GREEN], reject=[GREEN])
    with pytest.raises(VocabularyError, match="must be a list of images"):
        refine_concepts(learned, bank, accept=GREEN)
    with pytest.raises(VocabularyError, match=r"for which of 2 concepts, got a list; write accept=\{'red'"):
        learn_concepts(["red", "blue"], bank, accept=[GREEN])
    with pytest.raises(VocabularyError, match="reject names 'rod', which is not learned; did you mean 'red'"):
        learn_concepts(["red", "blue"], bank, reject={"rod": [GREEN]})


def test_a_name_that_two_images_share_is_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    for number, part in enumerate(("a", "b")):
        paint(tmp_path / "photos" / part, "same.png", ["red"], seed=number)
    bank = ImageBank.build(tmp_path / "photos", out=tmp_path / "bank", segmenter=segmenter)
    with pytest.raises(DatasetError, match=r"'same\.png' is the name of 2 images .* give the whole path"):
        read_decisions(bank, ["same.png"], [], side=24)
    (said,) = read_decisions(bank, [str(tmp_path / "photos" / "b" / "same.png") + ":0.5,1"], [], side=24)
    assert (said.path, said.cell(24)) == (bank.paths[1], (12, 23))


def test_later_decisions_take_the_place_of_earlier_ones_about_the_same_thing() -> None:
    def said(verdict: Any, place: Any = None) -> Decision:
        return Decision("a", verdict, place)

    one, near, far = (0.1, 0.1), (0.11, 0.1), (0.9, 0.9)  # on 10 × 10 cells
    cases = [
        ([said("rejected", one), said("accepted", near)], [said("accepted", near)]),
        ([said("rejected", one), said("accepted", far)], [said("rejected", one), said("accepted", far)]),
        ([said("accepted", one), said("accepted", far)], [said("accepted", far)]),
        ([said("rejected", one), said("accepted", far), said("rejected")], [said("rejected")]),
        ([said("rejected"), said("accepted", one)], [said("accepted", one)]),
        ([said("rejected", one), said("accepted")], [said("rejected", one), said("accepted")]),
        ([said("accepted"), said("rejected", one)], [said("accepted"), said("rejected", one)]),
    ]
    for order, expected in cases:
        steering = Steering().then(order, side=10)
        assert list(steering.decisions) == expected
        kept = tuple(replace(each.seed, verdict=each.verdict) for each in steering.decisions)
        assert remembered(kept) == steering


def test_what_is_like_a_cell_is_marked_and_nothing_else() -> None:
    """Cosines with the first cell 1, 1, 0.8 and 0, their mean 0.7: alike is what has 0.85 or more."""
    maps = torch.tensor([[[1.0, 1.0], [0.8, 0.0]], [[0.0, 0.0], [0.6, 1.0]]])
    text = torch.full((2, 2), 0.4)
    mark_alike(text, maps, (0, 0), 1.0)
    assert text.tolist() == [[1, 1], [pytest.approx(0.4), pytest.approx(0.4)]]


def picture_of(colour: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A square of a colour on grey, and where it is."""
    pixels = np.full((64, 64, 3), 120, np.uint8)
    pixels[16:48, 16:48] = COLOURS[colour]
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    return pixels, mask


def test_pictures_of_a_concept_count_with_the_retrieved_images(bank: ImageBank, tmp_path: Path) -> None:
    pixels, mask = picture_of("green")
    Image.fromarray(pixels).save(tmp_path / "shown.png")
    concept = Concept("zebra", images=(pixels, tmp_path / "shown.png"), masks=(mask, mask))
    concepts = learn_concepts([concept], bank, k=4, options=FEW)
    told = concepts["zebra"]
    given = [seed for seed in told.seeds if seed.verdict == "given"]
    assert [seed.path for seed in given] == ["image 0 of concept 'zebra'", str(tmp_path / "shown.png")]
    for seed in given:
        assert 0.25 <= seed.row < 0.75
        assert 0.25 <= seed.column < 0.75
        assert seed.agrees
    assert int(told.embeddings.sum(0).argmax()) == 1
    assert told.purity == 0  # of the retrieved ones alone
    assert told.given is not None
    assert told.given.shape == (2, 7)
    # a file keeps the features at their seeds, so that refining counts them on
    loaded = ConceptSet.load(concepts.save(tmp_path / "c.safetensors"))
    again = refine_concepts(loaded, bank, reject=[GREEN], options=FEW)["zebra"]
    assert again.given is not None
    torch.testing.assert_close(again.given, told.given)
    assert int(again.embeddings.sum(0).argmax()) == 1
    assert concepts.show(bank.segmenter, side=60).height > 60


def test_pictures_that_do_not_show_it_are_negatives(bank: ImageBank) -> None:
    red, mask = picture_of("red")
    plain = learn_concepts([Concept("red", images=(red,), masks=(mask,))], bank, k=4, options=FEW)["red"]
    all_red = np.full((64, 64, 3), COLOURS["red"], np.uint8)  # its cells lie outside now: the threshold rises
    concept = Concept("red", images=(red,), masks=(mask,), not_images=(all_red,))
    told = learn_concepts([concept], bank, k=4, options=FEW)["red"]
    assert told.threshold > plain.threshold + 0.02
    assert told.separation < plain.separation


def test_pictures_that_cannot_be_used_are_refused(bank: ImageBank) -> None:
    pixels, mask = picture_of("red")
    with pytest.raises(VocabularyError, match="must have the size of its image"):
        learn_concepts([Concept("red", images=(pixels,), masks=(mask[:5],))], bank, k=4)
    with pytest.raises(VocabularyError, match=r"retrieves images by its name, got use_name=False"):
        learn_concepts([Concept("red", images=(pixels,), masks=(mask,), use_name=False)], bank, k=4)
    with pytest.raises(ImageError, match=r"none\.png"):
        learn_concepts([Concept("red", images=("none.png",))], bank, k=4)


def test_a_file_of_the_third_format_is_read_and_refined(
    learned: ConceptSet, bank: ImageBank, tmp_path: Path
) -> None:
    """It has no verdicts, words or k, and so the header that this concept has with k left at 50."""
    old = replace(learned, references=(replace(learned["red"], k=50),))
    path = old.save(tmp_path / "c.safetensors")
    tensors, metadata = load_weights(path)
    assert "verdict" not in metadata["concepts"]
    assert set(json.loads(metadata["concepts"])["references"][0]) == {
        "name", "threshold", "spread", "purity", "separation", "seeds"
    }  # fmt: skip
    save_weights(tensors, path, metadata={**metadata, "format": "ovseg-concepts-3"}, bits=32)
    loaded = ConceptSet.load(path)
    assert loaded["red"].seeds == learned["red"].seeds
    assert names(refine_concepts(loaded, bank, reject=[GREEN], options=FEW)["red"].seeds, "rejected") == {GREEN}
    save_weights(tensors, path, metadata={**metadata, "format": "ovseg-concepts-2"}, bits=32)
    with pytest.raises(ModelError, match=r"\(ovseg-concepts-4\), got ovseg-concepts-2; learn it again"):
        ConceptSet.load(path)


def test_verdicts_are_drawn() -> None:
    """On a grey square: a ring, two blue ones, a cross at the seed, and one over everything."""
    pixels, mask = np.full((200, 200, 3), 128, np.uint8), np.zeros((4, 4), bool)

    def drawn(verdict: str, seed: tuple[float, float] = (0.5, 0.5)) -> np.ndarray[Any, Any]:
        return np.asarray(evidence_tile(pixels, mask, seed, side=200, verdict=verdict)).astype(int)

    seed, sure = (213, 94, 0), (0, 90, 181)
    assert (drawn("") == seed).all(2).any() and not (drawn("") == sure).all(2).any()
    for verdict in ("accepted", "given"):
        assert (drawn(verdict) == sure).all(2).sum() > 2 * (drawn("") == seed).all(2).sum()
    assert drawn("rejected")[100, 100].tolist() == list(seed)
    assert drawn("rejected")[10, 10].tolist() == [128] * 3
    assert drawn("rejected", (-1, -1))[10, 10].tolist() == list(seed)
