"""The two calls that most users need: ``segment`` and ``evaluate``."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ovseg.images.load import ImageSource
from ovseg.pipeline.batches import check_options
from ovseg.pipeline.opening import load
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.wording import Labels
from ovseg.result import SegmentationResult
from ovseg.vocabulary.labels import Background

if TYPE_CHECKING:
    from ovseg.evaluation import EvaluationReport


def segment(
    image: ImageSource,
    labels: Labels,
    *,
    model: str = "mini",
    background: Background = "auto",
    **options: Any,
) -> SegmentationResult:
    """Segment one image by words with a model that stays loaded between calls.

    Args:
        image: path, http(s) address, encoded bytes, binary stream, PIL image, array or tensor; see ``load_image``.
        labels: words or phrases, or ``Concept`` objects.
        model: a name of ``ovseg.list_models()``.
        background: "auto", None, or your own list of contrast phrases; see ``Segmenter.segment``.
        options: further keyword arguments of ``Segmenter.segment``.

    Returns:
        The result, of the size of the upright image.

    Raises:
        OvsegError: a label, the image or the model cannot be used; the message says what to do.
        TypeError: a misspelt option; the nearest is offered.
    """
    check_options(Segmenter.segment, options)
    return _loaded(model).segment(image, labels, background=background, **options)


def evaluate(segmenter: Any, benchmark: str, **options: Any) -> EvaluationReport:
    """Score anything with ``.segment(image, labels)`` on a benchmark; see ``ovseg.evaluation.evaluate``."""
    from ovseg.evaluation import evaluate as run

    return run(segmenter, benchmark, **options)


@lru_cache(maxsize=2)
def _loaded(model: str) -> Segmenter:
    return load(model)
