from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.toy import COLOURS, paint
from PIL import Image
from pydantic import ValidationError

import ovseg
from ovseg.bank import ImageBank
from ovseg.errors import ConfigError, ShapeError
from ovseg.evaluation import RunOptions, evaluate
from ovseg.evaluation.data.examples import Example
from ovseg.evaluation.data.protocol import Protocol, load_protocol
from ovseg.evaluation.run.predictor import CandidateLabels, read_result


def test_a_segmenter_without_the_background_keyword_gets_its_phrases_as_labels(folder: Path) -> None:
    asked = []

    class Plain:
        def segment(self, image: Any, labels: list[str]) -> Any:
            asked.append(labels)
            return SimpleNamespace(index_map=np.full(image.shape[:2], len(labels) - 1))

    values = load_protocol("folder").model_dump()
    values.update(classes_from=[], classes=["sky", "road", "cat"])
    values["background"] = {"class_name": "sky", "phrases": ["cloud", "ceiling"]}
    report = evaluate(Plain(), type(load_protocol("folder")).model_validate(values), data=folder)
    assert asked[0] == ["road", "cat", "cloud", "ceiling"]
    assert report.iou["sky"] > 0 and report.iou["road"] == 0  # the last label stands for the background


def test_synonyms_go_as_concepts_or_as_strings_that_count_for_their_class(folder: Path) -> None:
    seen: list[Any] = []

    class Last:
        def segment(self, image: Any, labels: list[Any], *, background: Any = "unset") -> Any:
            seen.append((labels, background))
            return SimpleNamespace(index_map=np.full(image.shape[:2], len(labels) - 1))

    values = load_protocol("folder").model_dump()
    entries = [{"name": "sky"}, {"name": "road"}, {"name": "cat", "synonyms": ["kitten"]}]
    values.update(classes_from=[], classes=entries)
    protocol = type(load_protocol("folder")).model_validate(values)
    by_concept = evaluate(Last(), protocol, data=folder)
    strings = protocol.model_copy(update={"label_form": "strings"})
    by_string = evaluate(Last(), strings, data=folder)
    assert seen[0][0][2].synonyms == ("kitten",) and seen[0][1] is None
    assert seen[-1][0] == ["sky", "road", "cat", "kitten"]
    assert by_concept.iou == by_string.iou
    evaluate(Last(), protocol, data=folder, options=RunOptions(synonyms=False))
    assert seen[-1][0] == ["sky", "road", "cat"]


def test_batches_give_the_same_score(folder: Path, oracle: Callable[..., Any]) -> None:
    class Batched(oracle):  # type: ignore[misc, valid-type]
        sizes: list[int] = []  # noqa: RUF012

        def segment_batch(self, images: list[Any], labels: list[Any], **keywords: Any) -> Any:
            self.sizes.append(len(images))
            return (self.segment(image, labels, **keywords) for image in images)

    batched = evaluate(Batched(4), "folder", data=folder, options=RunOptions(batch_size=4))
    assert Batched.sizes == [4, 2]
    assert batched.mean_iou == evaluate(oracle(4), "folder", data=folder).mean_iou


@pytest.mark.parametrize(
    ("index_map", "message"),
    [
        (np.zeros((3, 3), int), r"index_map of the image's size \(12, 16\) \(H, W\), got \(3, 3\) for '000'"),
        (np.zeros((12, 16)), "index_map must hold integers, got dtype float64"),
        (np.full((12, 16), 3), r"index_map must be in \[-1, 3\), the labels it was given, got 3 to 3"),
        (None, "got no index_map"),
    ],
)
def test_wrong_answers_are_refused(folder: Path, index_map: Any, message: str) -> None:
    segmenter = SimpleNamespace(segment=lambda image, labels: SimpleNamespace(index_map=index_map))
    with pytest.raises(ShapeError, match=message):
        evaluate(segmenter, "folder", data=folder)


@pytest.mark.parametrize("convert", ["array", "uint8", "tensor", "list"])
def test_any_kind_of_index_map_goes_also_without_keywords(folder: Path, convert: str) -> None:
    import torch

    kinds: dict[str, Callable[[Any], Any]] = {
        "array": lambda index: index,
        "uint8": lambda index: index.astype(np.uint8),
        "tensor": torch.from_numpy,
        "list": lambda index: index.tolist(),
    }
    zeros = np.zeros((12, 16), np.int64)
    segmenter = SimpleNamespace(segment=lambda image, labels: SimpleNamespace(index_map=kinds[convert](zeros)))
    report = evaluate(segmenter, "folder", data=folder)
    assert report.iou["sky"] > 0 and report.iou["road"] == 0
    assert 0 <= report.interval[0] <= report.mean_iou <= report.interval[1] <= 1


def test_scores_that_need_a_gradient_are_read(folder: Path) -> None:
    import torch

    scores = torch.full((12, 16), 0.5, requires_grad=True)
    answer = SimpleNamespace(index_map=torch.zeros((12, 16), dtype=torch.int32), score_map=scores)
    report = evaluate(SimpleNamespace(segment=lambda image, labels: answer), "folder", data=folder)
    assert not math.isnan(report.scores["expected_calibration_error"])


def test_a_batch_function_gets_only_the_keywords_it_takes(folder: Path, oracle: Callable[..., Any]) -> None:
    class Batched(oracle):  # type: ignore[misc, valid-type]
        def segment_batch(self, images: list[Any], labels: list[Any]) -> Any:
            return [self.segment(image, labels) for image in images]

    assert evaluate(Batched(), "folder", data=folder, options=RunOptions(batch_size=3)).mean_iou == 1


def test_what_cannot_segment_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a method segment\(image, labels\), got int"):
        evaluate(3, "folder", data=folder)


def test_a_segmenter_with_words_is_asked_by_them(voc: Path, segmenter: Any) -> None:
    adjusted = segmenter.for_benchmark("voc21", method="sclip")
    asked: list[Any] = []
    original = adjusted.segment

    def segment(image: Any, labels: Any, *, background: Any = None) -> Any:
        asked.append((labels, background))
        return original(image, labels, background=background)

    adjusted.segment = segment
    adjusted.segment_batch = None
    evaluate(adjusted, "voc21", data=voc, limit=1)
    (labels, background), words = asked[0], adjusted.words
    assert labels.raw and labels.phrases == words[1:] and labels.labels[15] == "potted plant"
    assert labels.phrases[15] == ("pottedplant",) and tuple(background) == words[0]


def test_a_word_list_of_another_benchmark_is_refused(folder: Path, segmenter: Any) -> None:
    adjusted = segmenter.for_benchmark("voc21", method="sclip")
    with pytest.raises(ConfigError, match="must name the 3 classes of 'folder', got 21"):
        evaluate(adjusted, "folder", data=folder)


def test_background_is_passed_through_options_too(folder: Path, oracle: Callable[..., Any]) -> None:
    plain = oracle(4)

    class Wrapper:
        def segment(self, image: Any, labels: Any, **options: Any) -> Any:
            assert options == {"background": "auto"}
            return plain.segment(image, labels, **options)

    values = load_protocol("folder").model_dump()
    values.update(classes_from=[], classes=["sky", "road", "cat"])
    values["background"] = {"class_name": "sky", "asked": True, "phrases": "auto"}
    report = evaluate(Wrapper(), type(load_protocol("folder")).model_validate(values), data=folder)
    assert report.manifest["background_passed"]
    assert report.mean_iou == evaluate(plain, "folder", data=folder).mean_iou


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Two photos laid out as PASCAL VOC, with a mask of aeroplane, void and background each."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number in range(2):
        paint(root / "JPEGImages", f"{number}.jpg", list(COLOURS)[number : number + 2], seed=number)
        mask = np.zeros((72, 96), np.uint8)
        mask[20:50, 10:60], mask[:4] = 1, 255
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{number}.png")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("0\n1\n")
    return tmp_path


def test_a_segmenter_with_concepts_can_be_evaluated(voc: Path, bank: ImageBank, segmenter: Any) -> None:
    taught = segmenter.with_concepts(ovseg.learn_concepts(["red"], bank, k=7))
    for protocol in ("voc21", "voc20"):
        report, plain = (ovseg.evaluate(each, protocol, data=voc, limit=2) for each in (taught, segmenter))
        assert report.mean_iou == plain.mean_iou  # no class of the protocol was learned
        assert report.manifest["background_passed"]
        assert report.manifest["model"] != plain.manifest["model"]


def read_presence(presence: Any) -> tuple[int, ...] | None:
    """Classes claimed by an answer over three labels, of the classes 4, 7 and 2."""
    example = Example("a", np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.int32))
    labels = CandidateLabels(["sky", "road", "cat"], np.array([4, 7, 2, -1], np.int32))
    result = SimpleNamespace(index_map=np.zeros((1, 1), int), presence=presence)
    return read_result(result, labels, example=example, seconds=0.0).claimed


@pytest.mark.parametrize(
    ("scores", "claimed"),
    [([0.5, 0.51, 0.49], (7,)), ([0.6, 0.2, 0.89], (2, 4)), ([1.0, 1.0, 1.0], (2, 4, 7)), ([0.1, 0.4, 0.3], ())],
)
def test_a_class_is_claimed_when_its_presence_is_above_one_half(
    scores: list[float], claimed: tuple[int, ...]
) -> None:
    assert read_presence(dict(zip(("sky", "road", "cat"), scores, strict=True))) == claimed
    assert read_presence(scores) == read_presence(np.array(scores)) == claimed


def test_presence_of_other_labels_than_those_given_claims_nothing() -> None:
    assert read_presence({"sky": 1.0, "street": 1.0}) is None and read_presence(None) is None


def test_stated_presence_is_scored_as_computed_by_hand(folder: Path, oracle: Callable[..., Any]) -> None:
    class Stating(oracle):  # type: ignore[misc, valid-type]
        """States a presence of 0.6 for road and cat and of 0.4 for sky."""

        def segment(self, image: Any, labels: Any, *, background: Any = None) -> Any:
            result = super().segment(image, labels)
            result.presence = {"sky": 0.4, "road": 0.6, "cat": 0.6}
            return result

    # six images show sky and road, three a cat: 12 claims, of which 6 + 3 are right; 9 of 15 classes are claimed
    scores = evaluate(Stating(), "folder", data=folder).scores
    assert scores["stated_presence_precision"] == pytest.approx(9 / 12)
    assert scores["stated_presence_recall"] == pytest.approx(9 / 15)


def test_saliency_is_the_probability_of_the_object_where_a_segmenter_gives_scores(tmp_path: Path) -> None:
    """Half of the object is sure (1), half of it at 0.4; the rest at 0.2: F is best from 0.4 on, the error 0.25."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.jpg")
    scores = np.full((1, 8, 8), 0.2, np.float16)
    scores[0, :2], scores[0, 2:4] = 1, 0.4
    asked: list[Any] = []

    class Graded:
        def segment(self, image: Any, labels: Any, *, keep_scores: bool = False) -> Any:
            asked.append((len(labels), keep_scores))
            labelled = np.where(scores[0] > 0.5, 0, -1).astype(np.int32)
            few = np.zeros((len(labels) - 1, 8, 8), np.float16)
            return SimpleNamespace(
                index_map=labelled, scores=np.concatenate([scores, few]) if keep_scores else None
            )

    report = evaluate(Graded(), "ecssd", data=tmp_path, limit=1)
    assert asked[0][1] is True and asked[0][0] > 1  # contrast phrases are labels where none can be passed
    assert report.mean_iou == 0.5
    assert report.scores["max_f_measure"] == 1
    assert report.scores["mean_absolute_error"] == pytest.approx((0.6 / 2 + 0.2) / 2, abs=1e-3)


def test_saliency_without_a_background_is_refused() -> None:
    values = load_protocol("ecssd").model_dump(exclude={"background"})
    with pytest.raises(ValidationError, match="saliency needs a background class"):
        Protocol.model_validate(values)
