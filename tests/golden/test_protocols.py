"""Settings and class words of every -paper file on every benchmark, as the releases' configuration has them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.golden import FOLDER

from ovseg.evaluation.data.protocol import load_protocol
from ovseg.models.config import for_benchmark, read_model_config
from ovseg.vocabulary.word_lists import WordList

FACTS: dict[str, Any] = json.loads((FOLDER / "protocols.json").read_text())
NAMES = {
    "VOC21": "voc21",
    "VOC20": "voc20",
    "Context60": "context-60",
    "Context59": "context-59",
    "COCO-Object": "coco-object",
    "COCO-Stuff171": "coco-stuff-171",
    "Cityscapes19": "cityscapes-19",
    "ADE150": "ade20k-150",
}
PAIRS = [(name, method) for name, facts in FACTS["benchmarks"].items() for method in facts["methods"]]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_settings_and_words_are_those_of_the_release(name: str, method: str) -> None:
    stated = FACTS["benchmarks"][name]["methods"][method]
    config = for_benchmark(read_model_config(f"clip-b16-{method.lower()}-paper"), NAMES[name])
    sizes = config.input
    assert (sizes.short_side, sizes.max_long_side, sizes.window) == (stated["short_side"], 2048, stated["window"])
    if stated["window"] is not None:
        assert sizes.window is not None and sizes.window - sizes.overlap == stated["stride"]
    assert (sizes.splice, sizes.resampling) == ("pixels", "opencv")
    assert (config.scoring.over, config.scoring.at) == ("phrases", "pixels")
    assert config.logit_scale == stated["logit_scale"]
    assert config.background.threshold == stated["probability_threshold"]
    assert config.background.area == (stated["area_threshold"] or 0)
    assert (config.background.margin, config.background.presence) == (0, 0)
    assert config.refine.default == stated["pamr"]["on"]
    if stated["pamr"]["on"]:
        assert config.refine.method == "pamr-released"
        assert (stated["pamr"]["steps"], stated["pamr"]["dilations"]) == (10, [8, 16])  # its defaults
    words = [
        [phrases] if isinstance(phrases, str) else phrases for phrases in FACTS["word_lists"][stated["word_list"]]
    ]
    assert [list(phrases) for phrases in WordList.named(config.words).classes] == words
    assert sum(map(len, words)) == stated["phrases"]


@pytest.mark.parametrize("name", FACTS["benchmarks"])
def test_word_lists_name_the_classes_of_the_protocol_in_its_order(name: str) -> None:
    protocol = load_protocol(NAMES[name])
    for method in FACTS["benchmarks"][name]["methods"]:
        config = for_benchmark(read_model_config(f"clip-b16-{method.lower()}-paper"), NAMES[name])
        words = WordList.named(config.words).classes
        assert len(words) == len(protocol.classes)
        for entry, phrases in zip(protocol.classes, words, strict=True):
            if entry.name == protocol.background.class_name:
                continue
            known = {_plain(text) for text in (entry.name, entry.prompt or "", *entry.synonyms)}
            assert known & {_plain(phrase) for phrase in phrases} or (entry.name, phrases[0]) in RENAMED


RENAMED = {("person", "people"), ("television", "televisionreceiver")}


def _plain(text: str) -> str:
    return text.lower().replace(" ", "").replace("-", "")


def test_unlabelled_pixels_count_as_the_releases_have_it() -> None:
    ignored = {"VOC21": 255, "COCO-Object": None}
    assert "COUNT" in FACTS["benchmarks"]["COCO-Object"]["labels"]["unlabelled"]
    for name, value in ignored.items():
        protocol = load_protocol(NAMES[name])
        found = int(protocol.lookup()[255])
        assert found == (protocol.background_index if value is None else -1)
