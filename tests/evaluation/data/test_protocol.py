from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ovseg.assets import find_asset
from ovseg.config import parse_config, read_yaml
from ovseg.errors import ConfigError
from ovseg.evaluation.data.protocol import SOURCES_WANTED, Protocol, load_protocol, protocol_names

WANTED = [
    "voc21",
    "voc20",
    "context-60",
    "context-59",
    "context-459",
    "coco-object",
    "coco-stuff-171",
    "coco-stuff-27",
    "cityscapes-19",
    "cityscapes-27",
    "ade20k-150",
    "ade20k-847",
    "kitti-step",
    "camvid11",
    "pascal-5i",
    "coco-20i",
    "fss-1000",
    "lvis-92i",
    "perseg",
    "mosaic-4",
    "ecssd",
    "wildpass",
    "folder",
    "coco-panoptic-133",
    "voc20-on-coco",
    "facade8",
    "clothing",
    "coco-panoptic",
    "coco-instances",
    "lvis-instances",
    "ade20k-panoptic",
    "cityscapes-panoptic",
    "panoptic",
    "instances",
]
SIZES = {
    **{
        "voc21": 21,
        "voc20": 20,
        "context-60": 60,
        "context-59": 59,
        "coco-object": 81,
        "coco-stuff-171": 171,
    },
    **{"coco-stuff-27": 27, "cityscapes-19": 19, "cityscapes-27": 27, "ade20k-150": 150, "kitti-step": 19},
    **{"camvid11": 11, "coco-panoptic-133": 133, "voc20-on-coco": 20, "clothing": 59, "facade8": 8},
}


def minimal(**changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "title": "Tiny",
        "classes": ["cat", "dog"],
        "layouts": [{"images": "images/{name}.*", "masks": "masks/{name}.png"}],
        "sources": {key: "ours" for key in SOURCES_WANTED},
        **changes,
    }


@pytest.mark.parametrize("name", WANTED)
def test_every_protocol_loads_and_names_itself(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.name == name and protocol.layouts
    assert protocol.classes or protocol.classes_from or protocol.episodes or protocol.objects
    assert all(text.strip() for text in protocol.sources.values())


def test_there_are_no_other_protocols_and_none_is_missing() -> None:
    assert set(protocol_names()) == set(WANTED)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_stated_counts_agree_with_the_lists(name: str, size: int) -> None:
    protocol = load_protocol(name)
    assert len(protocol.names) == size == protocol.expected.classes


@pytest.mark.parametrize("name", WANTED)
def test_no_two_classes_are_asked_by_the_same_words(name: str) -> None:
    asked = [(entry.prompt or entry.name).lower() for entry in load_protocol(name).classes]
    assert len(set(asked)) == len(asked)


def test_coco_stuff_supercategories_share_out_all_171_labels() -> None:
    coarse = [value for entry in load_protocol("coco-stuff-27").classes for value in entry.ids]
    fine = [value for entry in load_protocol("coco-stuff-171").classes for value in entry.ids]
    assert sorted(coarse) == sorted(fine)


def test_folds_follow_their_rules_and_share_out_the_classes() -> None:
    voc, coco = load_protocol("pascal-5i").episodes, load_protocol("coco-20i").episodes
    assert voc is not None and coco is not None
    assert [fold[0] for fold in voc.folds] == [1, 6, 11, 16]
    assert all((index - 1) % 4 == number for number, fold in enumerate(coco.folds) for index in fold)
    assert sorted(sum(voc.folds, ())) == list(range(1, 21))
    assert sorted(sum(coco.folds, ())) == list(range(1, 81))


def test_the_80_things_are_a_subset_of_the_133_categories() -> None:
    protocol = load_protocol("coco-panoptic-133")
    assert len(protocol.candidates("things")) == 80
    assert len(protocol.candidates("all")) == len(protocol.candidates("present")) == 133


def test_the_fingerprint_follows_the_score_and_not_the_prose() -> None:
    protocol = parse_config(Protocol, minimal(), source="test")
    retitled = protocol.model_copy(update={"title": "Other", "settings": {"shared": {"short_side": 5}}})
    assert protocol.fingerprint(labels="all") == retitled.fingerprint(labels="all")
    assert protocol.fingerprint(labels="all") != protocol.fingerprint(labels="present")
    other = parse_config(Protocol, minimal(ignore=[0, 255]), source="test")
    assert protocol.fingerprint(labels="all") != other.fingerprint(labels="all")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["cat", "cat"]}, "every class needs its own name; given twice: cat"),
        ({"expected": {"classes": 3}}, "expected.classes is 3, but 2 are listed"),
        (
            {"classes": [{"name": "a", "ids": [1]}, {"name": "b", "ids": [1]}]},
            "mask id 1 belongs to 'a' and 'b'",
        ),
        ({"background": {"class_name": "sky"}}, "the background class 'sky' is not among the classes"),
        ({"subsets": {"big": ["whale"]}}, "subset 'big' names no class: whale"),
        ({"sources": {"classes": "ours"}}, "missing: background, ignore, resize, split, metric, counts"),
        ({"ignor": [0]}, "unknown key 'ignor'; did you mean 'ignore'?"),
    ],
)
def test_protocols_that_do_not_hold_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config(Protocol, minimal(**changes), source="test")


def test_a_folder_in_place_of_a_configuration_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read '.*': Is a directory"):
        read_yaml(tmp_path)


def test_unknown_names_and_modes_offer_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'camvid11'\?"):
        load_protocol("camvid12")
    with pytest.raises(ConfigError, match=r"no label mode 'thing'; did you mean 'things'\?"):
        load_protocol("coco-panoptic-133").candidates("thing")
    with pytest.raises(ConfigError, match="no label mode 'present\\+x'"):
        load_protocol("voc20").candidates("present+x")


def test_unverified_facts_are_marked_and_no_file_count_is_invented_for_them() -> None:
    content = read_yaml(find_asset("evaluation/benchmarks", "kitti-step"))
    assert "unverified" in content["sources"]["counts"] and "files" not in content["expected"]
