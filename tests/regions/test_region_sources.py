"""Region sources, the vote and the merging of masks."""

import pytest
import torch
from helpers.checkpoints import sam2_config

from ovseg._torchvision import ensure_torchvision
from ovseg.errors import ConfigError, ModelError, ShapeError
from ovseg.images.geometry import ImageGeometry
from ovseg.regions import SOURCES, RegionsConfig, build_regions, majority_label
from ovseg.regions.sam import regions_of, sam
from ovseg.regions.sam2 import propose_logits
from ovseg.regions.vote import mean_of_regions, paint_by_area
from ovseg.sam import FoundMasks, SamEmbedding
from ovseg.sam.grid import keep_masks
from ovseg.sam.hub import StretchedSam

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.fixture
def stripes():
    """(24, 36, 3): three upright stripes; and structure (3, 4, 6) that tells them apart."""
    image = torch.zeros(24, 36, 3, dtype=torch.uint8)
    structure = torch.zeros(3, 4, 6)
    for number, colour in enumerate(COLOURS):
        image[:, 12 * number : 12 * number + 12] = torch.tensor(colour, dtype=torch.uint8)
        structure[number, :, 2 * number : 2 * number + 2] = 1
    return image, structure


OPTIONS = {
    "slic": {"count": 12},
    "felzenszwalb": {"sigma": 0.1},
    "kmeans": {"count": 3},
    "linked": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_region_crosses_a_border_of_the_stripes(name, stripes):
    image, structure = stripes
    source = build_regions(RegionsConfig(source=name, options=OPTIONS[name]))
    regions = source(image, structure)
    assert regions.shape == (24, 36) and regions.dtype == torch.int32 and regions.min() == 0
    sets = [set(regions[:, 12 * number : 12 * number + 12].flatten().tolist()) for number in range(3)]
    assert not (sets[0] & sets[1] or sets[1] & sets[2] or sets[0] & sets[2])
    assert torch.equal(source(image, structure), regions)


@pytest.mark.parametrize("name", ["kmeans", "linked"])
def test_clusters_of_structure_find_exactly_the_stripes(name, stripes):
    image, structure = stripes
    regions = build_regions(RegionsConfig(source=name, options=OPTIONS[name]))(image, structure)
    assert regions.unique().numel() == 3


def test_linked_equals_a_flood_fill():
    draw = torch.Generator().manual_seed(0)
    structure = torch.nn.functional.normalize(torch.randn(2, 5, 7, generator=draw), dim=0)
    image = torch.zeros(5, 7, 3, dtype=torch.uint8)
    regions = SOURCES["linked"](image, structure, nearness=0.3)
    slow, count = torch.full((5, 7), -1), 0
    for row in range(5):
        for column in range(7):
            if slow[row, column] >= 0:
                continue
            stack = [(row, column)]
            while stack:
                y, x = stack.pop()
                if slow[y, x] >= 0:
                    continue
                slow[y, x] = count
                for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    other = y + dy, x + dx
                    inside = 0 <= other[0] < 5 and 0 <= other[1] < 7
                    if inside and structure[:, y, x] @ structure[:, other[0], other[1]] > 0.3:
                        stack.append(other)
            count += 1
    assert torch.equal(regions.long(), slow)


def test_kmeans_takes_no_more_clusters_than_there_are_cells(stripes):
    image, structure = stripes
    assert SOURCES["kmeans"](image, structure, count=500).max() < 24


def test_each_region_takes_its_most_frequent_label():
    labels = torch.tensor([[0, 0, 1, 2], [0, 1, 1, -1], [3, 1, 2, -1]], dtype=torch.int32)
    regions = torch.tensor([[5, 5, 5, -1], [5, 7, 7, 9], [-1, 7, 7, 9]], dtype=torch.int32)
    voted = majority_label(labels, regions)
    assert voted.tolist() == [[0, 0, 0, 2], [0, 1, 1, -1], [3, 1, 1, -1]]
    assert voted.dtype == torch.int32
    assert torch.equal(majority_label(labels, torch.full_like(regions, -1)), labels)
    with pytest.raises(ShapeError, match="alike"):
        majority_label(labels, regions[:2])


def test_the_cells_of_a_region_take_its_mean():
    values = torch.tensor([[[1.0, 3.0, 5.0], [7.0, 9.0, 11.0]], [[0.0, 2.0, 0.0], [0.0, 0.0, 4.0]]])
    regions = torch.tensor([[4, 4, -1], [4, 9, 9]], dtype=torch.int32)
    found = mean_of_regions(values, regions)
    torch.testing.assert_close(found[0], torch.tensor([[11 / 3, 11 / 3, 5.0], [11 / 3, 10.0, 10.0]]))
    torch.testing.assert_close(found[1], torch.tensor([[2 / 3, 2 / 3, 0.0], [2 / 3, 2.0, 2.0]]))
    assert torch.equal(mean_of_regions(values, torch.full_like(regions, -1)), values)
    assert mean_of_regions(values.bfloat16(), regions).dtype == torch.bfloat16
    with pytest.raises(ShapeError, match=r"regions \(h, w\), got \(2, 2, 3\) and \(2, 2\)"):
        mean_of_regions(values, regions[:, :2])


def test_smaller_masks_lie_over_larger_ones_and_copies_are_dropped():
    logits = torch.full((4, 4, 6), -9.0)
    logits[0, :, :4] = 9
    logits[1, 1:3, 1:3] = 9
    logits[2, :, :4] = 9
    logits[2, 3, 3] = -9  # a copy of the first but for a pixel; the last is empty
    scores = torch.tensor([0.9, 0.8, 0.7, 0.99])
    kept = keep_masks(logits, scores, quality=0, stability=0, overlap=0.7)
    embedding = SamEmbedding(ImageGeometry((4, 6), (4, 6), (4, 6)), None, by_frame=False)
    regions = regions_of(FoundMasks(embedding, logits[kept], scores[kept]))
    assert regions.unique().tolist() == [-1, 0, 1]
    assert (regions[1:3, 1:3] == 1).all() and regions[0, 0] == regions[3, 3] == 0
    assert (regions[:, 4:] == -1).all() and regions.dtype == torch.int32
    assert (regions_of(FoundMasks(embedding, logits[:0], scores[:0])) == -1).all()


def test_missing_weights_of_sam_say_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="or use source: felzenszwalb"):
        sam(torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(1, 1, 1), model=str(tmp_path))


def test_unknown_sources_and_options_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'felzenszwalb'"):
        build_regions(RegionsConfig(source="felzenswalb"))
    with pytest.raises(ConfigError, match="has no option 'counts'; did you mean 'count'"):
        build_regions(RegionsConfig(source="slic", options={"counts": 3}))
    with pytest.raises(ShapeError, match="uint8"):
        SOURCES["slic"](torch.zeros(4, 4, 3), torch.zeros(1, 1, 1))


def test_the_lowest_region_is_spared_on_demand_where_every_pixel_lies_in_one():
    labels = torch.tensor([[0, 1, 1], [2, 2, 0]], dtype=torch.int32)
    regions = torch.tensor([[3, 3, 3], [5, 5, 5]])
    assert majority_label(labels, regions).tolist() == [[1, 1, 1], [2, 2, 2]]
    assert majority_label(labels, regions, spare_lowest=True).tolist() == [[0, 1, 1], [2, 2, 2]]


def test_larger_masks_are_painted_over_smaller_ones():
    masks = torch.zeros(3, 2, 4, dtype=torch.bool)
    masks[0, :, :2] = True  # 4 pixels
    masks[1, 0] = True  # 4 pixels, later of two equal ones
    masks[2, 0, 0] = True  # 1 pixel, hidden
    assert paint_by_area(masks).tolist() == [[2, 2, 2, 2], [1, 1, -1, -1]]


def test_a_tiny_sam2_gives_a_mask_for_each_point_of_the_grid():
    ensure_torchvision()
    from transformers import Sam2Model
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

    torch.manual_seed(0)
    config = sam2_config()
    processor = Sam2ImageProcessor(size={"height": 64, "width": 64})
    image = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
    network = StretchedSam(Sam2Model(config).eval(), processor)
    logits, scores = propose_logits(image, network, side=3, batch=4)
    assert logits.shape == (9, 40, 50) and scores.shape == (9,)
    assert logits.isfinite().all() and (logits[0] != logits[8]).any()
