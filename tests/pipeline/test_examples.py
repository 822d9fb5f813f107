from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.toy import COLOURS, make_segmenter
from PIL import Image

from ovseg import Concept
from ovseg.errors import ImageError, SpaceError, VocabularyError
from ovseg.examples import METHODS
from ovseg.pipeline.examples import ExampleEvidence, ExampleReader, cell_shares, examples_mark
from ovseg.pipeline.places import pictures_of, where_words_agree
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter


def photo(thing: str, ground: str = "white", *, left: int = 16, top: int = 16) -> npt.NDArray[np.uint8]:
    """A square of 32 pixels of one colour on another."""
    pixels = np.full((64, 96, 3), COLOURS[ground], np.uint8)
    pixels[top : top + 32, left : left + 32] = COLOURS[thing]
    return pixels


def square(*, left: int = 16, top: int = 16) -> npt.NDArray[np.bool_]:
    mask = np.zeros((64, 96), bool)
    mask[top : top + 32, left : left + 32] = True
    return mask


def overlap(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("method", METHODS)
def test_a_nameless_thing_is_found_again_by_one_photo_of_it(segmenter: Segmenter, method: str) -> None:
    shown = Concept("my mug", images=[photo("red")], masks=[square()], use_name=False)
    segmenter = segmenter.with_examples(method=method)
    result = segmenter.segment(photo("red", left=56), [shown, "white"], background=None, refine=False)
    assert result.labels == ("my mug", "white")
    assert overlap(result.mask("my mug"), square(left=56)) > 0.95


@pytest.mark.parametrize("method", ["learned", "mean", "density"])
def test_what_is_neither_like_it_nor_like_its_surroundings_is_not_taken_for_it(
    segmenter: Segmenter, method: str
) -> None:
    """Not so of ``kmeans`` and ``insid3``, which ask what a cell is nearer to."""
    shown = Concept("my mug", images=[photo("red")], masks=[square()], use_name=False)
    segmenter = segmenter.with_examples(method=method)
    other = segmenter.segment(photo("blue", left=56), [shown, "white", "blue"], background=None, refine=False)
    assert not other.mask("my mug").any()


def test_words_that_are_wrong_are_corrected(segmenter: Segmenter) -> None:
    """ "blue" is shown to be red: by words the blue square would be it, by what was shown the red one is."""
    shown = Concept("blue", images=[photo("red")] * 2, masks=[square()] * 2)
    spoken = segmenter.segment(photo("red", left=56), ["blue", "white"], background=["red"], refine=False)
    assert not spoken.mask("blue").any()
    result = segmenter.segment(photo("red", left=56), [shown, "white"], background=["red"], refine=False)
    assert overlap(result.mask("blue"), square(left=56)) > 0.95


def test_a_mixed_vocabulary_keeps_the_logits_of_what_was_not_shown(segmenter: Segmenter) -> None:
    shown = Concept("mug", images=[photo("red")], masks=[square()])
    encoded = segmenter.encode(photo("red", left=56))
    plain = segmenter.logits(encoded, segmenter.queries(["mug", "white", "blue"])).values
    mixed = segmenter.logits(encoded, segmenter.queries([shown, "white", "blue"])).values
    assert torch.equal(mixed[1:], plain[1:]) and not torch.equal(mixed[0], plain[0])


def test_pictures_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = make_segmenter()
    seen: list[int] = []
    encode = type(segmenter).encode_batch
    monkeypatch.setattr(
        Segmenter, "encode_batch", lambda self, images: seen.append(len(images)) or encode(self, images)
    )
    labels = [Concept("mug", images=[photo("red"), photo("red", left=40)], masks=[square(), square(left=40)])]
    for _ in range(3):
        segmenter.segment(photo("red", left=56), [*labels, "white"])
    assert len(seen) == 2 + 3
    segmenter.segment(photo("red", left=56), [*labels, "blue"])  # another vocabulary, the same pictures
    assert len(seen) == 6


def test_lessons_of_many_pictures_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three lessons of two pictures each, where four pictures may stay: the first lesson is taught again."""
    monkeypatch.setattr("ovseg.pipeline.examples._TAUGHT", 4)
    segmenter = make_segmenter()
    taught: list[str] = []
    learn = ExampleReader._learned

    def noted(self: ExampleReader, segmenter: Segmenter, queries: QueryBank, *rest: Any) -> ExampleEvidence:
        taught.append(queries.vocabulary.labels[1])
        return learn(self, segmenter, queries, *rest)

    monkeypatch.setattr(ExampleReader, "_learned", noted)
    mug = Concept("mug", images=[photo("red"), photo("red", left=40)], masks=[square(), square(left=40)])
    for other in ("white", "blue", "blue", "white", "green", "blue", "white"):
        segmenter.segment(photo("red", left=56), [mug, other])
    assert taught == ["white", "blue", "green", "white"]


def test_a_file_that_changes_is_read_again(segmenter: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "mug.png"
    asked = []
    for colour in ("red", "green"):
        Image.fromarray(photo(colour)).save(path)
        shown = Concept("mug", images=[path], masks=[square()], use_name=False)
        asked.append(segmenter.identity([shown, "white"])["asked"])
        result = segmenter.segment(photo(colour, left=56), [shown, "white"], background=["blue"], refine=False)
        assert overlap(result.mask("mug"), square(left=56)) > 0.95
    assert asked[0] != asked[1]


def test_the_identity_knows_pictures_and_places() -> None:
    def mark(**fields: Any) -> str:
        return examples_mark({"mug": Concept("mug", **fields)})

    same = {"images": [photo("red")], "masks": [square()]}
    assert mark(**same) == mark(**same)
    changed = [
        {"images": [photo("green")], "masks": [square()]},
        {"images": [photo("red")], "masks": [square(left=17)]},
        {"images": [photo("red")], "boxes": [(16, 16, 48, 48)]},
        {**same, "use_name": False},
        {**same, "not_images": [photo("blue")]},
        {**same, "not_images": [photo("blue")], "not_boxes": [(0, 0, 32, 32)]},
    ]
    assert len({mark(**same), *(mark(**fields) for fields in changed)}) == 7


def test_of_a_picture_that_does_not_show_it_only_the_box_counts(segmenter: Segmenter) -> None:
    """The negative shows the very same thing, outside of its box: as a whole picture it would speak against it."""
    shown = {"images": [photo("red")], "masks": [square()], "use_name": False, "not_images": [photo("red")]}
    corner = Concept("mug", **shown, not_boxes=[(64, 0, 96, 64)])
    result = segmenter.segment(photo("red", left=56), [corner, "white"], background=["blue"], refine=False)
    assert overlap(result.mask("mug"), square(left=56)) > 0.95
    _, other = pictures_of(corner)
    assert other.kind == "none" and other.window((64, 96)) == (slice(0, 64), slice(64, 96))
    with pytest.raises(VocabularyError, match=r"the box of not_images 0 of .* must lie inside its 96 x 64"):
        segmenter.queries([Concept("mug", **shown, not_boxes=[(64, 0, 97, 64)]), "white"])


def test_masks_may_be_files_of_many_kinds(segmenter: Segmenter, tmp_path: Path) -> None:
    cut_out = np.dstack([photo("red"), np.where(square(), 255, 0).astype(np.uint8)])
    coloured = np.repeat(np.where(square(), 200, 0)[..., None], 3, 2).astype(np.uint8)
    kinds = {"bool": square(), "alpha": cut_out, "colours": coloured, "index": square().astype(np.uint8)}
    results = []
    for name, array in kinds.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(array).save(path)
        shown = Concept("mug", images=[photo("red")], masks=[path])
        results.append(segmenter.segment(photo("red", left=56), [shown, "white"], refine=False).index_map)
    assert all((each == results[0]).all() for each in results)


@pytest.mark.slow
def test_a_box_is_cut_out_by_the_sam(small: Segmenter) -> None:
    shown = Concept("mug", images=[photo("red")], boxes=[(12, 12, 52, 52)])
    queries = small.queries([shown, "white"])
    assert queries.modifiers[0].names == ("mug",)


def test_without_a_place_what_stands_out_is_taken(segmenter: Segmenter) -> None:
    """No mask: the square is a part that hangs together and leaves most of the border free."""
    drawn = photo("red", left=32)
    with_mask = Concept("mug", images=[drawn], masks=[square(left=32)], use_name=False)
    without = Concept("mug", images=[drawn], use_name=False)
    target = photo("red", left=8)
    found = [segmenter.segment(target, [each, "white"], refine=False).mask("mug") for each in (with_mask, without)]
    assert overlap(found[0], found[1]) > 0.95


def test_of_a_label_alone_words_say_where_it_is_not() -> None:
    """By hand: what stands out, and what words find (class 1 of two); then words that find nothing, or all."""
    share = torch.tensor([[1.0, 0.9, 0.4, 0.0, 0.0]])
    text = torch.tensor([[[0.0, 0, 0, 0, 0]], [[-1.0, 1, 1, 1, -1]]])
    shown, elsewhere = where_words_agree(share, text, 1)
    assert shown.tolist() == [[0, 1, 0, 0, 0]]
    assert elsewhere.tolist() == [[False, False, False, False, True]]
    apart, _ = where_words_agree(torch.tensor([[1.0, 0, 0, 0, 0]]), text, 1)
    assert apart.tolist() == [[0, 1, 1, 1, 0]]  # nothing in both: where words find it
    for nothing, row in ((-text.abs(), 1), (text, None)):  # a label without a name: words say nothing of it
        shown, elsewhere = where_words_agree(share, nothing, row)
        assert torch.equal(shown, share) and elsewhere.tolist() == [[False, False, True, True, True]]
    shown, elsewhere = where_words_agree(share, 1 + text.abs() * torch.tensor([-1, 1])[:, None, None], 1)
    assert shown.tolist() == [[1, 1, 0, 0, 0]] and not elsewhere.any()


def test_a_label_alone_that_one_picture_without_a_place_shows_is_not_found_everywhere(segmenter: Segmenter) -> None:
    target, shown = photo("red", left=8), Concept("mug", images=[photo("red", left=32)])
    found = segmenter.segment(target, [shown], refine=False).mask("mug")
    by_colour = segmenter.segment(target, ["red"], refine=False).mask("red")
    assert overlap(found, by_colour) > 0.95  # before, nothing said that the rest is no mug


def test_shares_of_cells_are_means_over_their_pixels(segmenter: Segmenter) -> None:
    """Masks of 64 x 96 pixels on cells of 8: by hand, also where the object ends inside a cell."""
    mask = torch.zeros(1, 64, 96)
    mask[0, 16:44, 24:52] = 1
    (shares,) = cell_shares(mask, segmenter.encode(photo("red")))
    expected = torch.zeros(8, 12)
    expected[2:5, 3:6] = 1
    expected[5, 3:6], expected[2:5, 6], expected[5, 6] = 0.5, 0.5, 0.25
    torch.testing.assert_close(shares, expected)


def test_a_segmenter_with_kept_pictures_is_pickled_without_them(segmenter: Segmenter) -> None:
    shown = Concept("mug", images=[photo("red")], masks=[square()])
    segmenter.segment(photo("red"), [shown, "white"])
    copy = pickle.loads(pickle.dumps(segmenter._examples))  # noqa: S301 (made on the line itself)
    assert not copy._pictures and not copy._lessons


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"masks": [square()[:, :50]]}, VocabularyError, r"image 0 .* size of its image, 96 x 64, got 50 x 64"),
    ({"masks": [np.zeros((64, 96), bool)]}, VocabularyError, "must show something, got none of its 6144 pixels"),
    ({"masks": ["no-such-mask.png"]}, ImageError, "no mask file 'no-such-mask.png' for image 0"),
    ({"points": [(200, 10)]}, VocabularyError, r"points of image 0 .* inside its 96 x 64 pixels, got \(200, 10\)"),
    ({"boxes": [(10, 10, 300, 20)]}, VocabularyError, "boxes of image 0 .* must lie inside its 96 x 64 pixels"),
]


@pytest.mark.parametrize(("fields", "error", "told"), BAD, ids=range(len(BAD)))
def test_places_that_do_not_fit_are_refused(
    segmenter: Segmenter, fields: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        segmenter.segment(photo("red"), [Concept("mug", images=[photo("red")], **fields), "white"])


def test_models_whose_answers_are_no_sums_are_refused() -> None:
    segmenter = make_segmenter()
    pixels = segmenter.config.input.model_copy(update={"splice": "pixels", "window": 64})
    segmenter.config = segmenter.config.model_copy(update={"input": pixels})
    with pytest.raises(SpaceError, match=r"need cells on one grid, which 'toy' has not"):
        segmenter.queries([Concept("mug", images=[photo("red")], masks=[square()]), "white"])


def test_a_segmenter_with_other_settings_shares_the_pictures_and_not_what_they_taught() -> None:
    first = make_segmenter()
    labels = [Concept("mug", images=[photo("red")], masks=[square()]), "white"]
    encoded = first.encode(photo("red", left=56))
    one = first.logits(encoded, first.queries(labels)).values
    other = first.with_examples(method="mean")
    assert other._examples is first._examples and len(first._examples._pictures) == 1
    assert not torch.equal(other.logits(encoded, other.queries(labels)).values, one)
    assert len(first._examples._pictures) == 1
    assert torch.equal(first.logits(encoded, first.queries(labels)).values, one)


def test_nothing_is_learned_of_what_was_not_looked_at(segmenter: Segmenter) -> None:
    """Two red squares, one of them marked. Taken whole, the photo says that the other is not it."""
    both = photo("red", left=0)
    both[16:48, 64:96] = COLOURS["red"]
    fields: dict[str, Any] = {"images": [both], "masks": [square(left=0)], "use_name": False}
    learned = segmenter.with_examples(method="learned")
    found = []
    for within in ([(0, 0, 48, 64)], [None], []):
        labels = [Concept("mug", **fields, within=within), "white"]
        encoded = learned.encode(photo("red", left=32))
        found.append(learned.logits(encoded, learned.queries(labels)).values[0, 4, 6])
    assert found[0] > found[1] + 0.5 and found[1] == found[2]


def test_the_box_that_was_looked_at_takes_the_cells_that_it_touches(segmenter: Segmenter) -> None:
    concept = Concept("mug", images=[photo("red")], masks=[square()], within=[(20, 10, 41, 64)])
    (picture,) = pictures_of(concept)
    kept = segmenter._examples._seen(segmenter, picture)
    assert kept.known == (slice(1, 8), slice(2, 6))  # cells of 8 pixels
    assert kept.share.shape == kept.colours.shape[1:] == (7, 4)
    assert kept.share[1:5].min() == 1 and kept.share[0].max() == kept.share[5:].max() == 0
    assert kept.view(torch.zeros(2, 8, 12)).grid == (7, 4)


def test_boxes_that_were_looked_at_must_lie_inside_and_show_the_thing(segmenter: Segmenter) -> None:
    fields: dict[str, Any] = {"images": [photo("red")], "masks": [square()]}
    with pytest.raises(VocabularyError, match=r"within of image 0 .* inside its 96 x 64 pixels, got \(0, 0, 97"):
        segmenter.queries([Concept("mug", **fields, within=[(0, 0, 97, 10)]), "white"])
    with pytest.raises(VocabularyError, match="must show something"):
        segmenter.queries([Concept("mug", **fields, within=[(60, 0, 96, 64)]), "white"])
    with pytest.raises(VocabularyError, match="one entry of within per image or none, got 2 within for 1 images"):
        Concept("mug", **fields, within=[None, None])
    with pytest.raises(VocabularyError, match="within 0 of concept 'mug' must be x0, y0, x1, y1"):
        Concept("mug", **fields, within=[(5, 5, 5, 9)])
