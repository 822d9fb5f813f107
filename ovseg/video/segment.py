"""``ovseg.segment_video``: what each frame of a clip shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any

import numpy.typing as npt

from ovseg.errors import did_you_mean
from ovseg.pipeline.objects import Quality
from ovseg.pipeline.opening import load
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.selection.prompts import Points
from ovseg.pipeline.wording import Labels
from ovseg.video.options import VideoOptions
from ovseg.video.reading import Clip, ClipSource
from ovseg.video.request import Request
from ovseg.video.track import Tracker, VideoFrame
from ovseg.vocabulary.labels import Background


def segment_video(
    clip: ClipSource | Clip,
    labels: Labels | None = None,
    *,
    segmenter: Segmenter | str = "mini",
    mask: npt.NDArray[Any] | None = None,
    click: Points = (),
    background: Background = "auto",
    refine: bool | None = None,
    instances: bool | Sequence[str] = False,
    quality: Quality | None = None,
    **options: Any,
) -> Iterator[VideoFrame]:
    """Which of ``labels`` each pixel of each frame shows, frame by frame, as they are done.

    Words are asked on key frames; between them the probabilities of all labels are carried by which cells look
    alike, and on a key frame both are mixed. Where a frame no longer matches what is remembered, words are asked at
    once. Given a mask or clicks, words are never asked: what these show is followed. Memory does not grow with the
    length of the clip.

    Args:
        clip: path of a video or of a folder of frames, arrays (H, W, 3) uint8, or a ``Clip`` (with ``notes``).
        labels: what to look for; see ``Segmenter.segment``. With ``mask`` or ``click``, the names of what these
            show, plain text; "object" (and "object 2", …) if None.
        segmenter: that answers, or the name of its model.
        mask: (H, W) of the first frame: bool, or integers, 0 where nothing is and each other value an object, which
            take the labels in the order of the values.
        click: points (x, y) on one thing of the first frame.
        background: see ``Segmenter.segment``; a mask always leaves room for none of its objects.
        refine: see ``Segmenter.segment``.
        instances: also find the objects of the labels that are things (True), or of these labels; each keeps its
            number.
        quality: see ``Segmenter.segment``.
        options: fields of ``VideoOptions``.

    Returns:
        An iterator of a ``VideoFrame`` for each frame that can be decoded.

    Raises:
        ImageError: the file is no video, or has no frames; or these do not fit into the segmenter's memory.
        VocabularyError: a label cannot be used, or their number is not that of the objects in the mask.
        ShapeError: the mask has another size than the first frame.
        ConfigError: an option is out of range, or things are asked for that exclude each other.
        MissingDependencyError: PyAV is not installed (``pip install 'ovseg[video]'``), and the clip is a file.
        TypeError: there is no such option; the nearest is offered.

    Source: the protocol of DINO (Caron et al., ICCV 2021; see ``propagate.carry``) for masks of the first frame;
    here it carries what an open-vocabulary model says.
    """
    known = [field.name for field in fields(VideoOptions)]
    for name in options:
        if name not in known:
            raise TypeError(f"segment_video has no option '{name}'{did_you_mean(name, known)}")
    chosen = VideoOptions(**options)
    request = Request(labels, mask, click, background, refine, instances, quality)
    frames = (clip if isinstance(clip, Clip) else Clip(clip)).frames()
    first = next(frames)
    model = load(segmenter) if isinstance(segmenter, str) else segmenter
    tracker = Tracker(model, request.asked(model, lambda: first.pixels), chosen)
    tracker.check(first)
    return map(tracker.step, chain([first], frames))
