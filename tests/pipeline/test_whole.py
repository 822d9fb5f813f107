"""What the whole image says about phrases, against loops in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toy import SPACE, ToyEncoder, make_segmenter
from torch.nn import functional

from ovseg.errors import ConfigError, SpaceError
from ovseg.heads.base import IdentityHead
from ovseg.models.sections import ScoringConfig, WholeConfig
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.whole import WholeImage, kinds_of, pull_phrases
from ovseg.vocabulary.labels import Concept, Vocabulary

RULE = WholeConfig(share=0.3, pull=0.4, distance=0.1)


class WholeToy(ToyEncoder):
    """The toy with the mean of its cells as the vector of an image."""

    def image_vector(self, pixels):
        return functional.normalize(self.dense(pixels).values.flatten(2).mean(2), dim=1)


def whole_segmenter(rule, *, image=None, **changes) -> Segmenter:
    plain = make_segmenter()
    config = plain.config.model_copy(update={"whole": rule, **changes})
    model = replace(plain.model, config=config, image=image or WholeToy())
    return Segmenter(model, device=plain.device)


def picture():
    pixels = np.full((40, 64, 3), 120, np.uint8)
    pixels[:, :32], pixels[8:32, 40:56] = (220, 30, 30), (30, 40, 220)
    return pixels


def bank() -> QueryBank:
    """Five phrases of three classes; the first two are nearly the same."""
    vectors = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    vectors[1] = vectors[0] + 0.1 * vectors[2]
    return QueryBank.of_vectors(
        functional.normalize(vectors, dim=1),
        [0, 1, 1, 2, 0],
        Vocabulary.of(["a", "b", "c"]),
        space=SPACE,
        logit_scale=20,
    )


def slow_rows(encoded, queries, kinds):
    """(Q, h, w) logits in float64, phrase by phrase."""
    vectors = list(queries.embeddings.double())
    cells = functional.normalize(encoded.unpadded(encoded.features.values)[0].flatten(1).T.double(), dim=1)
    fits = [float(vector @ encoded.vector.double()) for vector in vectors]
    pulled = list(vectors)
    for kind in kinds:
        best = max(kind, key=lambda q: fits[q])
        order = sorted(range(len(cells)), key=lambda cell: -float(vectors[best] @ cells[cell]))
        mean = (cells[order[0]] + cells[order[1]]) / 2
        vector = 0.6 * vectors[best] + 0.4 * mean / mean.norm()
        pulled[best] = vector / vector.norm()
    maps = encoded.features.values[0].double()
    rows = [
        20 * (0.7 * torch.einsum("c,chw->hw", vector, maps) + 0.3 * fit)
        for vector, fit in zip(pulled, fits, strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("over", ["classes", "phrases"])
def test_the_logits_equal_the_loops(over):
    segmenter, queries = whole_segmenter(RULE, scoring=ScoringConfig(over=over)), bank()
    encoded = segmenter.encode(picture())
    rows = slow_rows(encoded, queries, [[0, 1], [2], [3], [4]])
    found = segmenter.logits(encoded, queries)
    if over == "classes":
        owner = queries.class_of_query
        rows = torch.stack([rows[owner == number].amax(0) for number in range(3)])
    torch.testing.assert_close(found.values.double(), rows, atol=1e-4, rtol=1e-5)


def test_phrases_that_are_near_are_of_one_kind():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [-1.0, 0.0]])
    kinds = kinds_of(vectors, 0.1)
    assert kinds[0] == kinds[2] and len(set(kinds.tolist())) == 3
    assert len(set(kinds_of(vectors, 9.0).tolist())) == 1
    assert kinds_of(vectors[:1], 0.1).tolist() == [0]


def test_only_the_likeliest_of_a_kind_is_pulled():
    vectors, cells = torch.eye(3), torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.6, 0.8], [-1.0, 0.0, 0.0]])
    pulled = pull_phrases(vectors, cells, torch.tensor([0.1, 0.2, 0.3]), pull=1.0, kinds=np.array([1, 2, 1]))
    mean = functional.normalize(torch.tensor([0.0, 0.6, 1.8]), dim=0)
    torch.testing.assert_close(pulled, torch.stack([vectors[0], mean, mean]))
    still = pull_phrases(vectors, cells[:1], torch.zeros(3), pull=0.0, kinds=np.array([1, 1, 1]))
    torch.testing.assert_close(still, vectors)


def test_a_label_that_the_whole_image_shows_gains():
    plain, whole = whole_segmenter(None), whole_segmenter(WholeConfig(share=0.5, pull=0.0))
    before = plain.logits(plain.encode(picture()), plain.queries(["red", "green"]))
    after = whole.logits(whole.encode(picture()), whole.queries(["red", "green"]))
    ahead = [logits.values[0].mean() - logits.values[1].mean() for logits in (before, after)]
    assert ahead[1] > ahead[0] > 0
    assert plain.info["settings"] != whole.info["settings"]


def test_pictures_of_a_label_count_beside_the_words_as_the_whole_image_has_them():
    segmenter, image = whole_segmenter(RULE), picture()
    mask = np.all(image == (30, 40, 220), axis=2)
    queries = segmenter.queries(["red", Concept("blue", images=[image], masks=[mask])])
    (evidence,) = queries.modifiers
    encoded = segmenter.encode(image)
    by_words = segmenter.plain_logits(encoded, queries)
    changed = evidence(by_words, encoded).values - by_words.values
    assert changed[0].abs().max() == 0 and changed[1].abs().max() > 0
    torch.testing.assert_close(segmenter.logits(encoded, queries).values, by_words.values + changed)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="a vector for the whole image, and so does 'whole:'"):
        whole_segmenter(RULE, image=ToyEncoder()).encode(picture())
    segmenter, queries = whole_segmenter(RULE), bank()
    encoded = segmenter.encode(picture())
    other = WholeImage(RULE, IdentityHead(SPACE), None, "another")
    with pytest.raises(SpaceError, match="another"):
        other(segmenter.logits(encoded, queries), encoded)
