import subprocess
import sys
from typing import Any

import pytest

from ovseg.assets import find_asset
from ovseg.config import read_yaml
from ovseg.errors import VocabularyError
from ovseg.vocabulary.labels import Concept, Vocabulary
from ovseg.vocabulary.spellings import phrase_for_encoder

BACKGROUND = read_yaml(find_asset("prompts/vocabularies", "background"))


def dropped_by(*labels: str | Concept) -> set[str]:
    return set(BACKGROUND["phrases"]) - set(Vocabulary.of(labels, background="auto").background)


def test_strings_and_concepts_mix() -> None:
    kitten = Concept("cat", synonyms=("kitten", "Cat"), not_=("fox",), weight=2)
    vocabulary = Vocabulary.of([" dog ", kitten])
    assert vocabulary.labels == ("dog", "cat")
    assert vocabulary.phrases == (("dog",), ("cat", "kitten"))
    assert vocabulary.contrasts == ((), ("fox",))
    assert vocabulary.weights == (1.0, 2.0)
    assert vocabulary.background == ()
    assert len(vocabulary) == 2


def test_phrases_keep_their_order() -> None:
    concept = Concept("a", synonyms=("b", "A", "c", "B"))
    assert Vocabulary.of([concept]).phrases == (("a", "b", "c"),)


def test_a_vocabulary_of_a_vocabulary_is_itself_unless_the_background_changes() -> None:
    vocabulary = Vocabulary.of([Concept("cat", synonyms=("kitten",), weight=3)], background=["sky"])
    assert Vocabulary.of(vocabulary) is vocabulary
    changed = Vocabulary.of(vocabulary, background=["sea", "Sea"])
    assert changed.background == ("sea",)
    assert (changed.phrases, changed.weights) == (vocabulary.phrases, vocabulary.weights)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"at least one label, got an empty list; name what to find"),
        ("cat", r"labels must be a list, got the string 'cat'; write \['cat'\]"),
        ({"cat": 1}, r"labels must be a list, got dict"),
        ({"cat"}, r"labels must be a list, got set"),
        (7, r"labels must be a list, got int"),
        ("cat, dog", r"got the string 'cat, dog'; write \['cat', 'dog'\]"),
        ("cat . potted plant", r"write \['cat', 'potted plant'\]"),
        (b"cat", r"labels must be a list, got the string b'cat'; write \[b'cat'\]"),
        (
            ["sky", "cat, potted plant"],
            r"labels\[1\] must be one label, got 'cat, potted plant'; write \['cat', "
            r"'potted plant'\] \(on the command line: cat \"potted plant\"\), or Concept\('cat, potted plant'\)",
        ),
        (["cat . dog"], r"labels\[0\] must be one label, got 'cat \. dog'; write \['cat', 'dog'\]"),
        (["cat | dog"], r"write \['cat', 'dog'\]"),
        (["cat;dog"], r"write \['cat', 'dog'\]"),
        (["cat,", "dog"], r"labels\[0\] must be one label, got 'cat,'; write \['cat'\]"),
        (["cup", "background"], r"labels\[1\] must be something to be seen, got 'background'.*background='auto'"),
        (["__background__"], r"something to be seen, got '__background__'"),
        (["BG"], r"something to be seen, got 'BG'"),
        (["cat", 7], r"labels\[1\] must be text, got 7 of type int"),
        (["cat", None], r"labels\[1\] must be text, got None"),
        (["cat", "  "], r"labels\[1\] must be text, got the blank string '  '"),
        (["cat", "dog", " CAT"], r"labels must all be different, got 'cat' at 0 and 'CAT' at 2"),
        (["a\udcff"], r"labels\[0\] must be text, got 'a\\udcff', which is not Unicode"),
        (["x" * 501], r"labels\[0\] must have at most 500 characters, got 501: 'xxx.*shorten it"),
    ],
)
def test_unusable_labels_are_refused_and_named(labels: Any, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.of(labels)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": " "}, r"the label of a concept must be text, got the blank string"),
        ({"label": "a", "synonyms": "b"}, r"synonyms of concept 'a' must be a list of phrases, got 'b'"),
        ({"label": "a", "not_": ["b", 3]}, r"not_ of concept 'a' \[1\] must be text, got 3"),
        ({"label": "cat", "not_": ("dog", "Cat")}, r"not_ of concept 'cat' must be other things, got 'Cat'"),
        (
            {"label": "a", "synonyms": ["traffic light"], "not_": ["traffic_light"]},
            r"got 'traffic_light', which is",
        ),
        ({"label": "a", "weight": 0}, r"the weight of concept 'a' must be finite and above 0, got 0"),
        ({"label": "a", "weight": float("nan")}, r"must be finite and above 0, got nan"),
        ({"label": "a", "weight": "2"}, r"must be finite and above 0, got '2'"),
        ({"label": "a", "images": ["x"], "masks": ["y", "z"]}, r"got 2 masks for 1 images"),
    ],
)
def test_unusable_concepts_are_refused_and_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Concept(**fields)


@pytest.mark.parametrize("label", ["t-shirt", "St. Bernard", "cat and dog", "no. 5", "a/b", "background wall"])
def test_these_are_one_label(label: str) -> None:
    assert Vocabulary.of([label]).labels == (label,)


def test_the_label_of_a_concept_may_hold_anything() -> None:
    labels = ("cat, dog", "background", "a | b")
    assert Vocabulary.of([Concept(label) for label in labels]).labels == labels
    assert Vocabulary.of(Vocabulary.of([Concept("a, b")]), background="auto").labels == ("a, b",)


def test_a_vocabulary_made_by_hand_is_checked() -> None:
    with pytest.raises(VocabularyError, match="one entry for each of 1 labels, got 0, 1, 1, 1"):
        Vocabulary(("cat",), (), ((),), (), (1.0,))
    with pytest.raises(VocabularyError, match="label 'cat' must have at least one phrase, got none"):
        Vocabulary(("cat",), ((),), ((),), (), (1.0,))


def test_background_is_auto_none_or_a_list() -> None:
    assert "sky" in Vocabulary.of(["cat"], background="auto").background
    assert Vocabulary.of(["cat"], background=["sky", "sea"]).background == ("sky", "sea")
    with pytest.raises(VocabularyError, match=r"'auto', None or a list of phrases, got 'sky'; write \['sky'\]"):
        Vocabulary.of(["cat"], background="sky")
    with pytest.raises(VocabularyError, match=r"background \[1\] must be text, got the blank string ''"):
        Vocabulary.of(["cat"], background=["sky", ""])


@pytest.mark.parametrize(
    ("label", "gone"),
    [
        ("Sky", {"sky"}),
        ("brick wall", {"wall"}),
        ("wall-brick", {"wall"}),
        ("trees", {"tree", "plant"}),
        ("road", {"street", "pavement"}),
        ("women", {"person", "clothing"}),
        ("tabby cat", {"animal"}),
        ("man in a red car", {"person", "car"}),
        ("cat on grass", {"animal", "grass"}),
        ("bookshelves", set()),
        ("shelves", {"furniture"}),
    ],
)
def test_background_that_matches_a_label_is_dropped(label: str, gone: set[str]) -> None:
    assert gone <= dropped_by(label)


def test_background_that_matches_a_synonym_is_dropped() -> None:
    assert "person" in dropped_by(Concept("rower", synonyms=("man",)))


def test_background_that_only_describes_the_label_stays() -> None:
    assert "wall" not in dropped_by("wall clock")
    assert "sky" not in dropped_by("cat")
    assert len(dropped_by("traffic cone")) == 0


def test_related_words_belong_to_phrases_of_the_list() -> None:
    assert set(BACKGROUND["related"]) <= set(BACKGROUND["phrases"])
    assert len(set(BACKGROUND["phrases"])) == len(BACKGROUND["phrases"]) >= 40


@pytest.mark.parametrize(
    ("spelling", "phrase"),
    [
        ("wall-other-merged", "wall"),
        ("floor-wood", "wood floor"),
        ("wall-brick", "brick wall"),
        ("ceiling-merged", "ceiling"),
        ("window-blind", "window blind"),
        ("door-stuff", "door"),
        ("playingfield", "playing field"),
        ("diningtable", "dining table"),
        ("traffic_light", "traffic light"),
        ("hair drier", "hair drier"),
        ("t-shirt", "t-shirt"),
        ("x-ray machine", "x-ray machine"),
        ("the other", "the other"),
        ("Eiffel Tower", "Eiffel Tower"),
    ],
)
def test_data_set_spellings_become_english(spelling: str, phrase: str) -> None:
    assert phrase_for_encoder(spelling) == phrase
    assert phrase_for_encoder(phrase) == phrase


def test_importing_the_vocabulary_does_not_import_torch() -> None:
    code = "import sys, ovseg.vocabulary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("masks", [(), ([[True]],)])
def test_visual_examples_are_refused_where_they_would_be_dropped(masks: tuple[Any, ...]) -> None:
    concept = Concept("mug", images=("mug.jpg",), masks=masks)
    told = "concept 'mug' has 1 images, which are not looked at here; leave out images"
    with pytest.raises(VocabularyError, match=told):
        Vocabulary.of(["table", concept])
