"""What no object covers: cut into regions, grouped over the folder, named and painted under the objects."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.toy import paint
from PIL import Image

from ovseg.discovery import Discovery, discover, named_concepts, write_named_labels
from ovseg.discovery.stuff import STUFF, stuff_regions
from ovseg.errors import ConfigError
from ovseg.images.load import load_image
from ovseg.pipeline.segmenter import Segmenter
from ovseg.result.segments import Segment
from ovseg.training.data import PseudoLabels, PseudoLabelSource

SKY, GRASS = (60, 60, 230), (60, 200, 60)


def landscape(path: Path, *, left: int, horizon: int = 48) -> Path:
    """Blue above green, 96 x 128, with a red square on the border between them."""
    pixels = np.empty((96, 128, 3), np.uint8)
    pixels[:horizon], pixels[horizon:] = SKY, GRASS
    pixels[32:64, left : left + 32] = (230, 40, 40)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def square(left: int) -> np.ndarray:
    mask = np.zeros((96, 128), bool)
    mask[32:64, left : left + 32] = True
    return mask


def as_object(mask: np.ndarray) -> Segment:
    return Segment.of_mask(mask, "object", 1.0, corner=(0, 0), size=mask.shape)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        landscape(tmp_path / "photos" / f"{number}.png", left=16 * number)
    return tmp_path / "photos"


@pytest.fixture
def only_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """The red squares are the objects that are found."""

    def squares(segmenter: Segmenter, encoded, *, by: str) -> tuple[Segment, ...]:
        return (as_object((encoded.image[..., 0] > 200) & (encoded.image[..., 1] < 60)),)

    monkeypatch.setattr("ovseg.discovery.found.propose", squares)


@pytest.fixture
def found(folder: Path, segmenter: Segmenter, only_squares: None) -> Discovery:
    return discover(folder, out=folder.parent / "out", segmenter=segmenter, groups=1, stuff=2)


def test_regions_share_no_pixel_lie_on_no_object_and_cover_the_rest(tmp_path: Path, segmenter: Segmenter) -> None:
    encoded = segmenter.encode(landscape(tmp_path / "a.png", left=48))
    regions = stuff_regions(encoded, [as_object(square(48))], most=3)
    covered = np.sum([each.mask() for each in regions], axis=0)
    assert covered.max() == 1 and not covered[square(48)].any()
    assert covered[~square(48)].mean() > 0.97
    assert {each.label for each in regions} == {STUFF} and all(0.3 <= each.score <= 1 for each in regions)
    sky, grass = (max(regions, key=lambda each: each.mask()[rows].sum()) for rows in (slice(0, 32), slice(64, 96)))
    assert sky.mask()[:32].mean() > 0.97 and grass.mask()[64:].mean() > 0.97 and not sky.mask()[64:].any()


def test_what_objects_cover_for_the_most_part_is_no_stuff(tmp_path: Path, segmenter: Segmenter) -> None:
    encoded = segmenter.encode(landscape(tmp_path / "a.png", left=48))
    for share, count in ((0.6, 2), (0.8, 1)):  # of the sky; 70 % is the limit
        mask = np.zeros((96, 128), bool)
        mask[: round(share * 48)] = True
        regions = stuff_regions(encoded, [as_object(mask), as_object(square(48))], most=3)
        assert len(regions) == count
    assert stuff_regions(encoded, [as_object(np.ones((96, 128), bool))]) == ()


def test_stuff_becomes_groups_of_its_own_after_those_of_objects(found: Discovery) -> None:
    assert [group.stuff for group in found.groups] == [False, True, True]
    assert [group.number for group in found.groups] == [1, 2, 3] and len(found.groups[0].members) == 6
    parts = {photo.path: photo.parts(stuff=True) for photo in found.objects().photos}
    regions = [(path, number) for path, part in parts.items() for number in range(len(part.segments))]
    grouped = [(member.path, member.object) for group in found.groups[1:] for member in group.members]
    assert sorted(grouped) == sorted(regions)  # every region has a group
    for group in found.groups[1:]:
        colours = set()
        for member in group.members:
            mask = parts[member.path].segments[member.object].mask()
            colours.add(int(np.median(load_image(Path(member.path))[mask], axis=0).argmax()))
        assert len(colours) == 1  # sky or grass, never both
    assert Discovery.open(found.root) == found
    assert json.loads((found.root / "groups.json").read_text())["groups"][1]["stuff"] is True
    assert (found.root / "group-3.png").is_file()


def test_groups_of_both_kinds_are_pseudo_labels_of_every_pixel(found: Discovery, tmp_path: Path) -> None:
    report = write_named_labels(found, tmp_path / "all", unnamed=True)
    assert report.images == 6 and report.coverage > 0.97
    source = PseudoLabelSource(PseudoLabels(pseudo_labels=tmp_path / "all"))
    assert set(source.phrases) == {"group 1", "group 2", "group 3"}
    for index in range(6):
        example = source.load(index)
        red = (example.image[..., 0] > 200) & (example.image[..., 1] < 60)
        assert (example.truth[red] == source.phrases.index("group 1")).all()  # objects lie on stuff
        above, below = (int(np.median(example.truth[rows])) for rows in (slice(0, 30), slice(66, 96)))
        assert above != below and (example.truth[:30] == above).mean() > 0.97 < (example.truth[66:] == below).mean()
    named = found.with_names({1: "box", 2: "sky", 3: "sky"})
    assert write_named_labels(named, tmp_path / "named").balance.keys() == {"box", "sky"}


def test_named_stuff_segments_new_photos(found: Discovery, segmenter: Segmenter, tmp_path: Path) -> None:
    new = landscape(tmp_path / "new" / "a.png", left=90, horizon=56)
    blue = next(
        group.number
        for group in found.groups[1:]
        if np.argmax(load_image(Path(group.members[0].path))[group.members[0].box[1] + 1, 1]) == 2
    )
    concepts = named_concepts(found.with_names({blue: "zorb", 5 - blue: "quix"}), segmenter)
    result = segmenter.with_concepts(concepts).segment(new, ["zorb", "quix"], refine=False)
    assert result.mask("zorb")[:30].mean() > 0.9 and result.mask("quix")[66:].mean() > 0.9


def test_a_folder_begun_without_stuff_is_looked_at_again_and_keeps_its_names(
    folder: Path, segmenter: Segmenter, only_squares: None
) -> None:
    calls: list[int] = []
    options = {"out": folder.parent / "out", "segmenter": segmenter, "groups": 1, "progress": calls.append}
    discover(folder, **options).with_names({1: "box"})
    assert len(calls) == 6
    made = discover(folder, **options, stuff=2)
    assert len(calls) == 12 and made[1].name == "box" and len(made.groups) == 3
    made.with_names({2: "sky"})
    again = discover(folder, **options, stuff=2)
    assert (
        len(calls) == 12 and again[2].name == "sky" and again.groups == replace(again, groups=again.groups).groups
    )
    assert len(discover(folder, **options).groups) == 1 and len(calls) == 12  # stuff is kept, and not looked at


def test_files_of_before_there_was_stuff_are_read(found: Discovery) -> None:
    path = found.root / "groups.json"
    stored = json.loads(path.read_text())
    stored["groups"] = [
        {key: value for key, value in group.items() if key != "stuff"} for group in stored["groups"][:1]
    ]
    path.write_text(json.dumps(stored))
    assert Discovery.open(found.root).groups == found.groups[:1]


@pytest.mark.parametrize("stuff", [0, 2.5])
def test_no_groups_of_stuff_are_refused(folder: Path, segmenter: Segmenter, stuff: float) -> None:
    with pytest.raises(ConfigError, match=r"stuff must be a number of groups of at least 1 or None, got"):
        discover(folder, out=folder.parent / "out", segmenter=segmenter, stuff=stuff)


def test_photos_that_objects_fill_make_no_group_of_stuff(tmp_path: Path, segmenter: Segmenter) -> None:
    paint(tmp_path / "photos", "a.png", ["red"], seed=1)
    made = discover(tmp_path / "photos", out=tmp_path / "out", segmenter=segmenter, stuff=5)
    assert all(group.members for group in made.groups)
