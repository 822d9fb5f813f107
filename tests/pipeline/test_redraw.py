"""The label map drawn anew by a SAM, against loops over pixels; the SAM is one that draws boxes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toy import COLOURS, make_segmenter
from pydantic import ValidationError

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ModelError
from ovseg.images.geometry import ImageGeometry
from ovseg.models.sections import RedrawConfig
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.redraw import redraw
from ovseg.pipeline.segmenter import Segmenter
from ovseg.sam import PromptedSam, SamEmbedding
from ovseg.sam.protocol import of_image

SIZE = (24, 32)
RULE = RedrawConfig(area=6, sure=0.8, hint=0.5, least=0.2)


class BoxSam(PromptedSam):
    """Draws the box that it is asked by, two pixels larger; surer, the larger the box is. It notes its prompts."""

    def __init__(self, *, reads_masks=True):
        self.reads, self.asked = reads_masks, []

    @property
    def reads_masks(self):
        return self.reads

    def encode(self, image):
        return SamEmbedding(ImageGeometry(SIZE, SIZE, (32, 32)), None)

    def _answers(self, embedding, parts, *, multimask):
        for part in parts:
            self.asked.append(part)
            logits = torch.full((len(part), 1, 8, 8), -2.0)
            for mask, box in zip(logits, part.boxes, strict=True):
                left, top, right, bottom = (box / 4).round().int().tolist()
                mask[0, max(top, 0) : bottom + 1, max(left, 0) : right + 1] = 1.5
            areas = (part.boxes[:, 2] - part.boxes[:, 0]) * (part.boxes[:, 3] - part.boxes[:, 1])
            yield logits, (areas > 20)[:, None] * 0.9


@pytest.fixture
def sam(monkeypatch):
    network = BoxSam()
    use(network, monkeypatch)
    return network


def use(network, monkeypatch):
    monkeypatch.setattr("ovseg.pipeline.redraw.ask_sam", lambda photo, model: (network, network.encode(None)))


def photo():
    features = DenseFeatures(torch.zeros(1, 1, *SIZE), "toy", 1)
    return EncodedImage(np.zeros((*SIZE, 3), np.uint8), features, ImageGeometry(SIZE, SIZE, SIZE))


def label_map():
    """Two classes, each with a part that is large, and one of class 1 that is too small to be drawn surely."""
    index = torch.full(SIZE, -1, dtype=torch.int32)
    index[2:12, 2:14], index[14:22, 4:28] = 0, 1
    index[3:6, 24:28] = 1  # 12 pixels: SAM is not sure
    index[8, 22:25] = 0  # 3 pixels: shown to nobody
    chances = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0)) / 2 + 0.1
    chances[2] = 0.05
    for number in (0, 1):
        chances[number][index == number] += 0.4
    return index, chances, chances.gather(0, index.clamp_min(0)[None].long())[0]


def slow(index, chances, best, sam, rule):
    """What ``redraw`` says, pixel by pixel; parts are known from how the map was made."""
    parts = {0: [(2, 2, 12, 14)], 1: [(3, 24, 6, 28), (14, 4, 22, 28)]}
    scores = {number: torch.zeros(SIZE, dtype=torch.double) for number in parts}
    failed = set()
    for number, boxes in parts.items():
        for top, left, bottom, right in boxes:
            box = torch.tensor([[left, top, right, bottom]], dtype=torch.float32)
            logits, quality = sam.masks(sam.encode(None), boxes=box)
            if float(quality) <= rule.sure:
                failed |= {(y, x) for y in range(top, bottom) for x in range(left, right)}
                continue
            (mask,) = of_image(sam.encode(None), logits[0])
            for y in range(SIZE[0]):
                for x in range(SIZE[1]):
                    if mask[y, x] > 0:
                        score = float(chances[number, y, x]) / (1 + math.exp(-float(mask[y, x])))
                        scores[number][y, x] = max(float(scores[number][y, x]), score)
    new, likely = index.clone(), best.clone()
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            winner = max(scores, key=lambda number: float(scores[number][y, x]))
            top = float(scores[winner][y, x])
            if top > 0 and not ((y, x) in failed and float(best[y, x]) > top):
                new[y, x], likely[y, x] = winner, chances[winner, y, x]
    return new, likely


def test_the_map_is_drawn_as_the_loops_say(sam):
    index, chances, best = label_map()
    found, likely = redraw(index, best, chances, photo(), stride=1, rule=RULE)
    expected, expected_likely = slow(index, chances, best, BoxSam(), RULE)
    assert torch.equal(found, expected) and found.dtype == torch.int32
    torch.testing.assert_close(likely, expected_likely)
    assert (found[3:6, 24:28] == 1).all()  # a part that SAM is not sure of stays
    assert (found[12:14, 4:14] != -1).any()  # and masks reach beyond their parts
    assert 0 < int((found != index).sum()) < found.numel() / 2


def test_parts_are_shown_by_box_likeliest_point_and_rough_mask(sam):
    index, chances, best = label_map()
    redraw(index, best, chances, photo(), stride=1, rule=RULE)
    first, second = sam.asked
    assert first.boxes.tolist() == [[2, 2, 14, 12]] and second.boxes.tolist() == [[24, 3, 28, 6], [4, 14, 28, 22]]
    for part, number in ((first, 0), (second, 1)):
        for (x, y), box in zip(part.points[:, 0].tolist(), part.boxes.int().tolist(), strict=True):
            inside = chances[number, box[1] : box[3], box[0] : box[2]]
            assert chances[number, int(y), int(x)] == inside.max() and (x % 1, y % 1) == (0.5, 0.5)
        framed = sam.encode(None).framed(chances[number][None])
        torch.testing.assert_close(part.masks[0], torch.where(framed > 0.2, 0.5 * framed, 0.0)[0])


def test_a_sam_that_reads_no_masks_is_shown_boxes_and_points_alone(monkeypatch):
    network = BoxSam(reads_masks=False)
    use(network, monkeypatch)
    index, chances, best = label_map()
    redraw(index, best, chances, photo(), stride=1, rule=RULE)
    assert all(part.masks is None and part.points is not None for part in network.asked)


def test_where_nothing_is_likely_or_large_enough_the_map_stays_and_sam_is_not_asked(sam):
    index, chances, best = label_map()
    for rule in (RULE.model_copy(update={"least": 1.0}), RULE.model_copy(update={"area": 10_000})):
        found, likely = redraw(index, best, chances, photo(), stride=1, rule=rule)
        assert torch.equal(found, index) and torch.equal(likely, best)
    assert not sam.asked


def segmenter_that_redraws(model):
    plain = make_segmenter()
    rule = RedrawConfig(model=model, area=16, sure=0.5)
    config = plain.config.model_copy(update={"redraw": rule})
    return Segmenter(replace(plain.model, config=config), device=plain.device)


def picture():
    """(80, 120, 3) grey with a red disc and a blue one, and which pixels they hold."""
    pixels, y = np.full((80, 120, 3), 128, np.uint8), np.arange(80)[:, None]
    discs = [(y - 40) ** 2 + (np.arange(120) - across) ** 2 < 22**2 for across in (30, 88)]
    pixels[discs[0]], pixels[discs[1]] = COLOURS["red"], COLOURS["blue"]
    return pixels, np.where(discs[0], 0, np.where(discs[1], 1, -1))


def test_mobile_sam_draws_the_objects_of_a_coarse_map():
    pixels, truth = picture()
    segmenter = segmenter_that_redraws("mobile-sam")
    plain, found = (
        each.segment(pixels, ["red", "blue"], background=["grey"]) for each in (make_segmenter(), segmenter)
    )
    before, after = ((result.index_map == truth).mean() for result in (plain, found))
    assert before < 0.97 and after > 0.99
    assert segmenter.info["settings"] != make_segmenter().info["settings"]


def test_wrong_sections_and_missing_weights_are_refused(tmp_path):
    for wrong in ({"area": 0}, {"sure": 2}, {"modle": "x"}):
        with pytest.raises(ValidationError):
            RedrawConfig.model_validate(wrong)
    with pytest.raises(ModelError, match=r"expected the weights of SAM, SAM 2 or EdgeTAM"):
        segmenter_that_redraws(str(tmp_path)).segment(picture()[0], ["red", "blue"])
