from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovseg.errors import ConfigError, VocabularyError
from ovseg.pipeline.opening import load
from ovseg.pipeline.queries import encode_phrases, first_alike, phrases_of
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.text_cache import TextCache
from ovseg.vocabulary.labels import Concept, Vocabulary
from ovseg.vocabulary.templates import Templates


def letters(sentences: list[str]) -> torch.Tensor:
    """A text encoder that counts letters."""
    return torch.tensor([[float(s.count(letter)) + 0.01 for letter in "abcdefgh"] for s in sentences])


def test_queries_list_labels_synonyms_background_and_contrasts() -> None:
    vocabulary = Vocabulary.of(
        [Concept("cat", synonyms=("kitten",), not_=("dog",)), "road"], background=["sky", "wall"]
    )
    phrases, owner = phrases_of(vocabulary)
    assert list(zip(phrases, owner, strict=True)) == [
        ("cat", 0), ("kitten", 0), ("road", 1), ("sky", 2), ("wall", 3), ("dog", 4),
    ]  # fmt: skip


def test_an_ensemble_is_the_unit_mean_of_unit_vectors() -> None:
    templates = Templates(source="test", templates=("{}", "a bad {}."))
    vectors = encode_phrases(["cab", "egg"], templates, letters)
    for row, phrase in enumerate(["cab", "egg"]):
        units = [letters([t.replace("{}", phrase)])[0] for t in templates.templates]
        mean = sum(unit / unit.norm() for unit in units)
        torch.testing.assert_close(vectors[row], mean / mean.norm())


def test_many_phrases_are_encoded_in_portions_under_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    templates = Templates(source="test", templates=("{}", "a bad {}."))
    phrases = ["cab"] * 1000 + ["egg"]
    vectors = encode_phrases(phrases, templates, letters)
    assert "encoding words" in capsys.readouterr().err
    assert torch.equal(vectors[[0, 1000]], encode_phrases(["cab", "egg"], templates, letters))
    assert "encoding words" not in capsys.readouterr().err


def test_the_cache_answers_without_encoding(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    first = cache.fetch({"phrases": ["cat"]}, lambda: torch.tensor([[1.0, 2.0]]))
    second = cache.fetch({"phrases": ["cat"]}, lambda: pytest.fail("encoded again"))
    assert torch.equal(first, second)
    other = cache.fetch({"phrases": ["dog"]}, lambda: torch.tensor([[3.0]]))
    assert other.tolist() == [[3.0]]


def test_a_damaged_cache_file_is_made_again(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    cache.fetch({"k": 1}, lambda: torch.ones(1, 2))
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(b"not safetensors")
    assert cache.fetch({"k": 1}, lambda: torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]


def test_a_flipped_byte_in_the_cache_is_made_again(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    cache.fetch({"k": 1}, lambda: torch.ones(1, 8))
    (file,) = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80  # the sign of the last number
    file.write_bytes(content)
    assert cache.fetch({"k": 1}, lambda: torch.ones(1, 8)).tolist() == [[1.0] * 8]
    assert cache.fetch({"k": 1}, lambda: pytest.fail("made a third time")).tolist() == [[1.0] * 8]


def test_the_cache_lets_go_of_what_was_used_least_recently(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    for number in range(4):
        cache.fetch({"k": number}, lambda: torch.zeros(100, 10))
        (path,) = set(tmp_path.glob("*.safetensors")) - {Path(each) for each in getattr(cache, "seen", [])}
        os.utime(path, (1000 + number, 1000 + number))
        cache.seen = [*getattr(cache, "seen", []), path]  # type: ignore[attr-defined]
    size = cache.state().size // 4
    cache.fetch({"k": 0}, lambda: pytest.fail("it is there"))  # used now
    smaller = TextCache(tmp_path, limit=3 * size)
    smaller.fetch({"k": 9}, lambda: torch.zeros(100, 10))
    assert smaller.state().entries == 3
    for kept in (0, 3, 9):
        smaller.fetch({"k": kept}, lambda: pytest.fail("it was let go"))


def test_words_of_an_edited_template_are_encoded_anew(small: Segmenter, tmp_path: Path) -> None:
    def vectors(template: str, cache: Path) -> torch.Tensor:
        (tmp_path / "mine.yaml").write_text(f'source: test\ntemplates: ["{template}"]\n')
        config = small.config.model_copy(update={"templates": str(tmp_path / "mine.yaml")})
        segmenter = Segmenter(replace(small.model, config=config), device=small.device, cache=cache)
        return segmenter.queries(["cat", "road"]).embeddings

    first, edited = vectors("a {}.", tmp_path / "text"), vectors("the {} is old.", tmp_path / "text")
    assert not torch.allclose(first, edited)
    assert torch.equal(edited, vectors("the {} is old.", tmp_path / "fresh"))


def test_a_text_tower_first_asked_for_in_inference_can_still_be_trained_through(tmp_path: Path) -> None:
    segmenter = load(cache=tmp_path)
    with torch.inference_mode():
        segmenter.queries(["an odd word"])
    weight = segmenter.model.text().model.words.weight  # type: ignore[attr-defined]
    assert not weight.is_inference()


def test_a_cache_that_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = TextCache(tmp_path / "file" / "folder")
    assert cache.fetch({"k": 1}, lambda: torch.ones(1)).tolist() == [1.0]
    assert cache.folder is None


def test_unknown_templates_offer_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'short3'"):
        Templates.named("short")


@pytest.mark.parametrize("phrase", ["猫", "ネコ", "🐱", "قطة", "кошка", "cat 猫"])
def test_a_phrase_that_the_text_encoder_cannot_read_is_refused_and_not_kept(tmp_path: Path, phrase: str) -> None:
    segmenter = load(cache=tmp_path)
    for _ in range(2):
        with pytest.raises(VocabularyError, match=f"label '{phrase}': expected .* 'mini' can read.* reads English"):
            segmenter.queries(["dog", phrase])
    with pytest.raises(VocabularyError, match=f"background or contrast: .* got '{phrase}'"):
        segmenter.queries(["dog"], background=[phrase])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [["café", "für"], ["5 €", "t-shirt"], ["smørrebrød", "jalapeño"]])
def test_latin_letters_with_accents_are_read(tmp_path: Path, labels: list[str]) -> None:
    assert load(cache=tmp_path).queries(labels).labels == 2


@pytest.mark.parametrize(
    ("labels", "first", "second"),
    [
        (["traffic_light", "dog", "traffic light"], "traffic_light", "traffic light"),
        (["café", "cafe"], "café", "cafe"),
        ([Concept("cat", synonyms=("kitty",)), "kitty"], "cat", "kitty"),
    ],
)
def test_two_labels_of_one_vector_are_refused_from_the_encoder_and_from_the_cache(
    tmp_path: Path, labels: list[str | Concept], first: str, second: str
) -> None:
    for _ in range(2):
        with pytest.raises(VocabularyError, match=f"got '{first}' and '{second}', which are the same"):
            load(cache=tmp_path).queries(labels)
    assert list(tmp_path.iterdir())  # the second time they came from here


def test_labels_that_share_a_synonym_only_are_two_questions(tmp_path: Path) -> None:
    labels = [Concept("cat", synonyms=("pet",)), Concept("dog", synonyms=("pet",))]
    assert load(cache=tmp_path).queries(labels).labels == 2


def test_rows_that_are_alike_are_found_as_by_comparing_all_pairs() -> None:
    rows = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
    rows[17], rows[30], rows[31], rows[5] = rows[2] + 1e-7, rows[2] - 1e-7, rows[8], rows[9] + 1e-3
    slow = [next(a for a in range(b + 1) if (rows[a] - rows[b]).norm() <= 1e-5) for b in range(40)]
    assert first_alike(rows) == slow
    assert [b for b in range(40) if slow[b] != b] == [17, 30, 31]
    assert first_alike(rows[:0]) == []
