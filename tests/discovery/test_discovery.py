"""A folder's groups: found once, kept whatever happens, named by a person, put to use."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.toy import COLOURS, make_segmenter, paint
from PIL import Image

from ovseg.discovery import Discovery, discover, named_concepts, write_named_labels
from ovseg.discovery.discovery import centre_of
from ovseg.errors import ConfigError, ImageError, SpaceError, VocabularyError
from ovseg.images.load import load_image
from ovseg.journal import read_journal
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.data import PseudoLabels, PseudoLabelSource

SHOWN = ("red", "blue", "yellow")
TESTS = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five photos of each of three colours, one square each."""
    for number in range(15):
        paint(tmp_path / "photos", f"{number:02d}-{SHOWN[number % 3]}.png", [SHOWN[number % 3]], seed=number)
    return tmp_path / "photos"


@pytest.fixture
def found(folder: Path, segmenter: Segmenter) -> Discovery:
    return discover(folder, out=folder.parent / "out", segmenter=segmenter, groups=4, names=list(COLOURS))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Discovery:
    """As ``found``, for tests that change nothing of it or work on a copy of its folder."""
    place = tmp_path_factory.mktemp("made")
    for number in range(15):
        paint(place / "photos", f"{number:02d}-{SHOWN[number % 3]}.png", [SHOWN[number % 3]], seed=number)
    return discover(place / "photos", out=place / "out", segmenter=make_segmenter(), groups=4, names=list(COLOURS))


@pytest.fixture
def copied(made: Discovery, tmp_path: Path) -> Discovery:
    """``made`` in a folder that a test may spoil."""
    return Discovery.open(shutil.copytree(made.root, tmp_path / "copied"))


def colour_of(path: str) -> str:
    return Path(path).stem.split("-")[1]


def groups_by_colour(found: Discovery) -> dict[str, int]:
    """The first group of each colour's squares."""
    return {group.proposed[0]: group.number for group in found.groups[::-1] if group.proposed[0] in SHOWN}


def test_each_colour_becomes_a_group_and_its_name_is_proposed(made: Discovery) -> None:
    numbers = groups_by_colour(made)
    assert set(numbers) == set(SHOWN)
    for colour, number in numbers.items():
        members = made[number].members
        assert Counter(colour_of(member.path) for member in members) == {colour: len(members)} and len(members) >= 4
        assert all(first.cosine >= second.cosine for first, second in itertools.pairwise(members))
    assert len(made.paths) == 15 and not made.bad
    sizes = [len(group.members) * group.tightness for group in made.groups]
    assert sizes == sorted(sizes, reverse=True)


def test_the_folder_holds_groups_and_pictures_and_opens_again(made: Discovery) -> None:
    stored = json.loads((made.root / "groups.json").read_text())
    assert stored["format"] == "ovseg-groups-1"
    assert [each["size"] for each in stored["groups"]] == [len(group.members) for group in made.groups]
    assert Discovery.open(made.root) == made
    for group in made.groups:
        assert Image.open(made.root / f"group-{group.number}.png").height > 100
    assert Image.open(made.root / "overview.png").width > 900


def test_a_second_run_encodes_only_what_is_new_or_changed(
    folder: Path, found: Discovery, segmenter: Segmenter
) -> None:
    def encoded() -> tuple[Discovery, int]:
        calls: list[int] = []
        made = discover(folder, out=found.root, segmenter=segmenter, groups=4, progress=calls.append)
        return made, len(calls)

    again, count = encoded()
    assert count == 0 and [group.members for group in again.groups] == [group.members for group in found.groups]
    os.utime(folder / "00-red.png")
    paint(folder, "01-blue.png", ["blue"], seed=77)
    paint(folder, "15-red.png", ["red"], seed=15)
    (folder / "02-yellow.png").unlink()
    changed, count = encoded()
    assert count == 2 and len(changed.paths) == 15
    fresh = discover(folder, out=folder.parent / "fresh", segmenter=segmenter, groups=4)
    assert [group.members for group in changed.groups] == [group.members for group in fresh.groups]


def test_a_moved_photo_is_known_by_its_content(
    folder: Path, found: Discovery, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "00-red.png").rename(folder / "99-red.png")
    shutil.copy(folder / "01-blue.png", folder / "98-blue.png")
    monkeypatch.setattr(Segmenter, "encode", lambda *_: pytest.fail("encoded again"))
    assert len(discover(folder, out=found.root, segmenter=segmenter, groups=4).paths) == 16


def test_bad_photos_are_told_and_tried_again(folder: Path, segmenter: Segmenter) -> None:
    (folder / "03-red.png").write_bytes(b"cut off")
    (folder / "04-blue.png").write_bytes(b"")
    made = discover(folder, out=folder.parent / "out", segmenter=segmenter, groups=4)
    assert [Path(path).name for path, _ in made.bad] == ["03-red.png", "04-blue.png"] and len(made.paths) == 13
    assert Discovery.open(made.root).bad == made.bad
    paint(folder, "03-red.png", ["red"], seed=3)
    assert len(discover(folder, out=made.root, segmenter=segmenter, groups=4).bad) == 1


def test_names_stay_with_their_groups(folder: Path, found: Discovery, segmenter: Segmenter) -> None:
    numbers = groups_by_colour(found)
    found.with_names({numbers["red"]: "cherry", numbers["blue"]: "sea"})
    for number in range(20, 40):
        paint(folder, f"{number}-blue.png", ["blue"], seed=number)  # now blue is the largest
    again = discover(folder, out=found.root, segmenter=segmenter, groups=4, names=list(COLOURS))
    now = groups_by_colour(again)
    assert now["blue"] == 1 and again[1].name == "sea" and again[now["red"]].name == "cherry"
    assert list(again.named) == [group.name for group in again.groups if group.name]


def test_names_are_edited_in_the_file_too(copied: Discovery) -> None:
    path = copied.root / "groups.json"
    stored = json.loads(path.read_text())
    stored["groups"][0]["name"] = " cup "
    path.write_text(json.dumps(stored))
    assert Discovery.open(copied.root)[1].name == "cup"


@pytest.mark.slow
def test_killed_at_any_instant_nothing_is_lost(folder: Path, segmenter: Segmenter) -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from helpers import toy
from ovseg.discovery import discover
segmenter = toy.make_segmenter()
encode = segmenter.encode
segmenter.encode = lambda image, **options: (time.sleep(0.05), encode(image, **options))[1]
print("ready", flush=True)
discover(sys.argv[1], out=sys.argv[2], segmenter=segmenter, groups=4)
"""
    out, lines = folder.parent / "killed", 0
    for seconds in np.random.default_rng().uniform(0.1, 0.8, 6):
        process = subprocess.Popen([sys.executable, "-c", program, str(folder), str(out)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = len(read_journal(out / "objects.jsonl"))
        assert kept >= lines
        lines = kept
    resumed, whole = (
        discover(folder, out=place, segmenter=segmenter, groups=4) for place in (out, folder.parent / "whole")
    )
    assert resumed.groups == whole.groups


def test_other_settings_are_refused(folder: Path, found: Discovery) -> None:
    other = make_segmenter("other-weights")
    with pytest.raises(ConfigError, match="objects of other settings"):
        discover(folder, out=found.root, segmenter=other)
    with pytest.raises(ConfigError, match=r"groups must be a number of at least 1 or 'auto', got 0"):
        discover(folder, out=found.root, segmenter=other, groups=0)


def test_pictures_of_an_earlier_run_are_no_photos(folder: Path, segmenter: Segmenter) -> None:
    for _ in range(2):
        assert len(discover(folder, out=folder / "out", segmenter=segmenter, groups=4).paths) == 15
    with pytest.raises(ImageError, match="expected photos outside of"):
        discover(folder / "out", out=folder / "out", segmenter=segmenter)


def test_photos_without_objects_make_no_group(tmp_path: Path, segmenter: Segmenter) -> None:
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (96, 72), (120, 120, 120)).save(tmp_path / "plain" / "a.png")
    made = discover(tmp_path / "plain", out=tmp_path / "out", segmenter=segmenter, names=["red"])
    assert made.groups == () and Discovery.open(made.root) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.pop("groups"), "no list of groups"),
        (lambda stored: stored.update(format="ovseg-groups-9"), "must be of form"),
        (lambda stored: stored["groups"][0].update(members=[{"path": 3}]), "no list of groups"),
        (lambda stored: stored["groups"][0].update(name=3), "must be text"),
    ],
)
def test_a_damaged_list_of_groups_is_refused(
    copied: Discovery, change: Callable[[dict], None], message: str
) -> None:
    path = copied.root / "groups.json"
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises((ConfigError, VocabularyError), match=message):
        Discovery.open(copied.root)


def test_objects_that_are_gone_are_refused(copied: Discovery) -> None:
    journal = copied.root / "objects.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ConfigError, match="does not hold the objects of"):
        copied.objects()
    journal.write_text('{"path": 3}\n')
    with pytest.raises(ConfigError, match="does not hold"):
        copied.objects()


def test_named_groups_segment_new_photos(found: Discovery, segmenter: Segmenter, tmp_path: Path) -> None:
    numbers = groups_by_colour(found)
    named = found.with_names({numbers["red"]: "zorb", numbers["blue"]: "quix", numbers["yellow"]: "zorb"})
    concepts = named_concepts(named, segmenter)
    assert concepts.names == tuple(named.named) and set(concepts.names) == {"zorb", "quix"}
    zorb = concepts["zorb"]
    assert len(zorb.embeddings) == 2 and zorb.found and zorb.separation > 0.8  # two groups, one name
    np.testing.assert_allclose(concepts["quix"].embeddings[0], centre_of(named[numbers["blue"]], named.objects()))
    new = paint(tmp_path / "new", "a.png", ["red", "blue"], seed=50)
    result = segmenter.with_concepts(concepts).segment(new, ["zorb", "quix"], refine=False)
    pixels = load_image(new).astype(int)
    for name, rival, channel in (("zorb", "quix", 0), ("quix", "zorb", 2)):
        square = (pixels[..., channel] > 200) & (pixels.min(2) < 60)
        assert result.mask(name)[square].mean() > 0.7 > 0.1 > result.mask(rival)[square].mean()


def test_named_groups_are_pseudo_labels_that_training_reads(found: Discovery, tmp_path: Path) -> None:
    numbers = groups_by_colour(found)
    named = found.with_names({numbers["red"]: "cherry", numbers["blue"]: "sea"})
    report = write_named_labels(named, tmp_path / "pseudo")
    assert report.images >= 8 and report.failed == 0 and 0 < report.coverage < 0.5
    source = PseudoLabelSource(PseudoLabels(pseudo_labels=tmp_path / "pseudo"))
    assert set(source.phrases) == {"cherry", "sea"}
    for index, name in enumerate(source.names):
        example = source.load(index)
        wanted = source.phrases.index({"red": "cherry", "blue": "sea"}[colour_of(name)])
        assert set(np.unique(example.truth)) - {wanted} <= {example.truth.min()}
        inside = example.image[example.truth == wanted].astype(int)
        assert inside.mean(0).max() > 1.5 * np.median(inside.mean(0))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pseudo" / "labels").iterdir()}
    assert write_named_labels(named, tmp_path / "pseudo") == report
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "pseudo" / "labels").iterdir()}
    with pytest.raises(ConfigError, match="pseudo-labels of other settings"):
        write_named_labels(named.with_names({numbers["yellow"]: "sun"}), tmp_path / "pseudo")


def test_smaller_objects_lie_on_larger_ones() -> None:
    from ovseg.discovery.export import _painted
    from ovseg.result.segments import Segment

    large, small = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    large[1:7, 1:7], small[3:5, 3:5] = True, True
    first, second = (Segment.of_mask(mask, "object", 1.0, corner=(0, 0), size=(8, 8)) for mask in (small, large))
    maps, scores = _painted([(1, second, 0.5), (0, first, 0.75)])
    assert maps[3, 3] == 0 and maps[1, 1] == 1 and maps[0, 0] == 255
    assert (scores[3, 3], scores[1, 1], scores[0, 0]) == (0.75, 0.5, 0.0)


def test_without_names_or_with_another_model_nothing_is_made(
    found: Discovery, segmenter: Segmenter, small: Segmenter, tmp_path: Path
) -> None:
    for use in (lambda: named_concepts(found, segmenter), lambda: write_named_labels(found, tmp_path / "p")):
        with pytest.raises(VocabularyError, match="expected named groups, got none"):
            use()
    with pytest.raises(SpaceError, match="made with model 'toy', got 'mini'"):
        named_concepts(found.with_names({1: "cup"}), small)
    with pytest.raises(ConfigError, match="no group 99; there are 1 to"):
        found.with_names({99: "cup"})
