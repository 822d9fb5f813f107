"""What the image as a whole says about the phrases that are looked for in it: the text side of CASS."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.spec import check_space, whole_space
from ovseg.heads.base import Head
from ovseg.models.model import Model
from ovseg.models.sections import WholeConfig
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits, best_query, class_logits
from ovseg.pipeline.queries import QueryBank

_PULLING = 2  # cells that a phrase is pulled to


@dataclass(frozen=True)
class WholeImage:
    """Phrases that fit the whole image gain: their vectors are pulled to it, and their cosine with it is mixed in.

    It computes the logits anew from the features, so it comes before all modifiers, which add to them.

    Attributes:
        rule: how much.
        head: of the model.
        smoothing: of the model.
        space: of the vector of the whole image.

    Source: Kim et al., CASS, CVPR 2025, object-guided text embedding; its released code asks each window apart.
    """

    rule: WholeConfig
    head: Head
    smoothing: float | None
    space: str

    @classmethod
    def of_model(cls, model: Model) -> WholeImage | None:
        """As the section ``whole`` of the model's file asks for; None without it."""
        rule = model.config.whole
        return None if rule is None else cls(rule, model.head, model.config.smoothing, whole_space(model.image))

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """The logits with what the whole image says.

        Raises:
            SpaceError: image and phrases are in different spaces.
        """
        queries, vectors = logits.queries, logits.queries.embeddings.float()
        compared = self._compared(queries)
        if encoded.vector is None:
            return logits
        fits = (compared @ encoded.vector.to(compared)).to(vectors)  # (Q,)
        cells = encoded.unpadded(encoded.features.values)[0].flatten(1).T.to(vectors)
        pulled = pull_phrases(
            vectors, cells, fits, pull=self.rule.pull, kinds=kinds_of(vectors, self.rule.distance)
        )
        asked = replace(queries, phrases=replace(queries.phrases, values=pulled))
        local = class_logits(self.head, encoded.features, asked, smoothing=self.smoothing, by_query=True).values
        whole = (fits * queries.logit_scale).to(local)[:, None, None].expand_as(local)
        mixed = torch.lerp(local, whole, self.rule.share)
        if logits.class_of_row is None:
            best = best_query(mixed.flatten(1), queries.class_of_query, classes=queries.classes)
            mixed = best.view(-1, *logits.grid)
        return replace(logits, values=mixed)

    def _compared(self, queries: QueryBank) -> Tensor:
        """(Q, C) vectors in the space of the whole image: the text encoder's own if the head moved phrases."""
        own = queries.phrases.inputs
        if own is not None and self.space == self.head.text_space != queries.space:
            return own.float()
        check_space(self.space, queries.space)
        return queries.embeddings.float()


def kinds_of(vectors: Tensor, distance: float) -> npt.NDArray[np.int64]:
    """(Q,) number of the kind of each phrase: Ward's clusters of their cosine distances.

    Args:
        vectors: (Q, C).
        distance: up to which clusters are joined.
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors), np.int64)
    unit = functional.normalize(vectors.double(), dim=1).cpu()
    apart = (1 - unit @ unit.T).clamp_min(0).fill_diagonal_(0)
    tree = linkage(squareform(apart.numpy(), checks=False), method="ward")
    kinds: npt.NDArray[np.int64] = fcluster(tree, t=distance, criterion="distance").astype(np.int64)
    return kinds


def pull_phrases(
    vectors: Tensor, cells: Tensor, fits: Tensor, *, pull: float, kinds: npt.NDArray[np.int64]
) -> Tensor:
    """Phrases with the one of each kind that fits the image best pulled to the two cells that are most like it.

    Args:
        vectors: (Q, C) phrases.
        cells: (n, C) of the image.
        fits: (Q,) cosine of each phrase with the whole image; of two that fit equally the first is taken.
        pull: share of the unit mean of the two cells in the new vector, in [0, 1].
        kinds: (Q,) of each phrase.

    Returns:
        (Q, C); those that were pulled have unit length.
    """
    unit = functional.normalize(cells, dim=1)
    scores = fits.cpu().numpy()
    chosen = torch.tensor([int(np.flatnonzero(kinds == k)[scores[kinds == k].argmax()]) for k in np.unique(kinds)])
    phrases = functional.normalize(vectors[chosen], dim=1)
    nearest = (phrases @ unit.T).topk(min(_PULLING, len(unit)), dim=1).indices  # (kinds, 2)
    means = functional.normalize(unit[nearest].mean(1), dim=1)
    return vectors.index_copy(
        0, chosen.to(vectors.device), functional.normalize(torch.lerp(phrases, means, pull), dim=1)
    )
