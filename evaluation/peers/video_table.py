"""Clips: labels of each frame by itself against carried ones, and a first mask that is followed against its copy.

python evaluation/peers/video_table.py --ground facade-train100 --things coco-things-val --clips 6 --frames 16
python evaluation/peers/video_table.py --frames-of camvid/val --frames 40

Made clips: a camera pans over a photo of --ground (images/, masks/, categories.json) while a thing cut out of a
photo of --things (images/, instances.json) crosses it; every frame has noise of its own, and the truth is exact.
--frames-of takes a folder of the form of --ground whose images are frames, SEQUENCE_NUMBER; a new clip begins with
another SEQUENCE, or where a number is left out. Labels are those in the truth of the clip.

Printed: mean IoU over the frames of a clip, flicker, J&F of what is followed (the thing, or every class that covers
1 % of the first frame), each the mean over clips or things, and the processor time of a frame in relation to that
of frames one by one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ovseg
from ovseg.errors import OvsegError
from ovseg.evaluation import load_protocol
from ovseg.evaluation.data.annotations import checked_rle, read_annotations
from ovseg.evaluation.data.clips import moving_thing
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.metrics.confusion import ConfusionMatrix
from ovseg.evaluation.metrics.video import flicker, score_object
from ovseg.images.find import find_images
from ovseg.images.load import read_image
from ovseg.result.segments import Segment
from ovseg.video import segment_video

_LEAST = 0.06  # share of its photo that a thing covers
_EDGE = 3  # pixels from the edge of its photo, so that it is whole
_UNKNOWN = 0.15  # share of a ground without truth, at most
_SHOWN = 0.01  # share of the first frame from which a class is followed


@dataclass(frozen=True)
class Footage:
    """A clip: (T, H, W, 3) frames, their true labels (T, H, W), -1 unknown, and masks (T, H, W) to be followed."""

    labels: list[str]
    frames: np.ndarray
    truth: np.ndarray
    followed: dict[str, np.ndarray]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ground", type=Path, help="photos with masks, that the camera pans over")
    parser.add_argument("--things", type=Path, help="photos with objects, that are cut out")
    parser.add_argument("--frames-of", type=Path, help="frames with masks")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=16, help="of a clip, at most")
    parser.add_argument("--every", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if (given.ground is None or given.things is None) == (given.frames_of is None):
        parser.error("expected --ground and --things, or --frames-of")
    torch.set_num_threads(1)
    try:
        segmenter = ovseg.load(given.model, device="cpu")
        clips = list(found_clips(given) if given.frames_of else made_clips(given))
        print(table(segmenter, clips, every=given.every))
    except OvsegError as error:
        parser.exit(2, f"error: {error}\n")


def table(segmenter: Any, clips: Sequence[Footage], *, every: Sequence[int]) -> str:
    """The scores as Markdown, in percent."""

    def alone(clip: Footage) -> Iterator[np.ndarray]:
        for frame in clip.frames:
            yield segmenter.segment(frame, clip.labels, background=None).index_map

    def carried(clip: Footage, every: int) -> Iterator[np.ndarray]:
        for seen in segment_video(clip.frames, clip.labels, segmenter=segmenter, background=None, every=every):
            yield seen.result.index_map

    lines = ["| labels by words | mIoU | flicker | time |", "|---|---|---|---|"]
    alone_time = 0.0
    rows: dict[str, Callable[[Footage], Iterator[np.ndarray]]] = {"each frame by itself": alone}
    rows |= {f"carried, words on every {n}. frame": lambda clip, n=n: carried(clip, n) for n in every}
    next(alone(clips[0]))  # texts are encoded, networks are warm
    for name, how in rows.items():
        iou, flickering, seconds = words_scores(clips, how)
        alone_time = alone_time or seconds
        lines.append(f"| {name} | {100 * iou:.1f} | {100 * flickering:.1f} | {seconds / alone_time:.2f} |")
    lines += ["", "| a first mask | J | F | J&F |", "|---|---|---|---|"]
    for name, follow in {"copied": copied, "followed": lambda clip: followed(segmenter, clip)}.items():
        scores = [score for clip in clips for score in follow(clip)]
        region, outline = (
            float(np.mean([getattr(each, kind) for each in scores])) for kind in ("region", "outline")
        )
        lines.append(f"| {name} | {100 * region:.1f} | {100 * outline:.1f} | {50 * (region + outline):.1f} |")
    frames, objects = sum(len(clip.frames) for clip in clips), sum(len(clip.followed) for clip in clips)
    return "\n".join([*lines, "", f"{len(clips)} clips, {frames} frames, {objects} followed"])


def words_scores(
    clips: Sequence[Footage], how: Callable[[Footage], Iterator[np.ndarray]]
) -> tuple[float, float, float]:
    """Mean IoU and flicker, each the mean over clips, and seconds of processor time a frame."""
    ious, flickers, start = [], [], time.process_time()
    for clip in clips:
        matrix, seen = ConfusionMatrix.empty(len(clip.labels)), list(how(clip))
        for found, truth in zip(seen, clip.truth, strict=True):
            matrix.update(found, truth)
        ious.append(matrix.mean_iou())
        flickers.append(flicker(seen, clip.truth))
    frames = sum(len(clip.frames) for clip in clips)
    return float(np.mean(ious)), float(np.mean(flickers)), (time.process_time() - start) / frames


def copied(clip: Footage) -> Iterator[Any]:
    """J and F of the first mask of each thing, on all frames."""
    for truth in clip.followed.values():
        yield score(clip, [truth[0]] * len(truth), truth)


def followed(segmenter: Any, clip: Footage) -> Iterator[Any]:
    """J and F of the things, followed from their first masks."""
    first = np.zeros(clip.truth.shape[1:], np.int32)
    for number, truth in enumerate(clip.followed.values(), start=1):
        first[truth[0]] = number
    names = list(clip.followed)
    seen = [each.result for each in segment_video(clip.frames, names, segmenter=segmenter, mask=first)]
    for name, truth in clip.followed.items():
        yield score(clip, [result.mask(name) for result in seen], truth)


def score(clip: Footage, found: Sequence[np.ndarray], truth: np.ndarray) -> Any:
    """J and F where the truth is known."""
    known = clip.truth >= 0
    return score_object([each & here for each, here in zip(found, known, strict=True)], list(truth))


def made_clips(given: argparse.Namespace) -> Iterator[Footage]:
    """Things of one folder that cross photos of another."""
    grounds = open_dataset(load_protocol("folder"), given.ground)
    classes = [each.name for each in grounds.protocol.classes]
    things = list(whole_things(given.things))
    draw = np.random.default_rng(given.seed)
    order, places = draw.permutation(len(things)), iter(draw.permutation(len(grounds.names)))
    for number in range(min(given.clips, len(things))):
        ground = next(each for each in (grounds.load(int(place)) for place in places) if unknown(each) <= _UNKNOWN)
        label, thing, mask = things[order[number]]
        names = classes if label in classes else [*classes, label]
        clip = moving_thing(
            ground.image, ground.truth, thing, mask, label=names.index(label), count=given.frames, seed=number
        )
        labels, truth = present(clip.truth, names)
        yield Footage(labels, clip.frames, truth, {label: clip.thing})


def unknown(example: Any) -> float:
    """Share of the pixels without truth."""
    return float((example.truth < 0).mean())


def whole_things(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, photo and mask, cut to the box, of the largest object of each photo that is whole and not small."""
    annotations = read_annotations(folder / "instances.json", kind="instances")
    names = {each.id: each.name for each in annotations.categories}
    files = {path.stem: path for path in find_images(folder / "images")}
    for image in annotations.images:
        found = []
        for row in image.rows:
            rle = checked_rle(row["segmentation"], image.size, what="an object")
            mask = Segment("", 0, (0, 0, 1, 1), 0, rle).mask()
            rows, columns = np.nonzero(mask)
            if row.get("iscrowd") or mask.mean() < _LEAST:
                continue
            box = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            room = min(box[0], box[2], image.size[0] - box[1], image.size[1] - box[3])
            if room >= _EDGE:
                window = (slice(box[0], box[1]), slice(box[2], box[3]))
                found.append((len(rows), names[row["category_id"]], window, mask[window]))
        if found:
            _, name, window, mask = max(found, key=lambda each: each[0])
            yield name, read_image(files[Path(image.name).name]).pixels[window], mask


def found_clips(given: argparse.Namespace) -> Iterator[Footage]:
    """Sequences of frames that follow each other."""
    frames = open_dataset(load_protocol("folder"), given.frames_of)
    classes = [each.name for each in frames.protocol.classes]
    runs: list[list[int]] = []
    before: tuple[str, int] | None = None
    steps = [number for _, number in map(numbered, frames.names)]
    usual = int(np.median(np.diff(steps)))
    for place, name in enumerate(frames.names):
        sequence, number = numbered(name)
        if before != (sequence, number - usual) or len(runs[-1]) == given.frames:
            runs.append([])
        runs[-1].append(place)
        before = (sequence, number)
    whole = [run for run in runs if len(run) >= min(given.frames, 3)]
    for run in whole[: given.clips]:
        examples = [frames.load(place) for place in run]
        labels, truth = present(np.stack([each.truth for each in examples]), classes)
        shown = [(label, truth == place) for place, label in enumerate(labels)]
        follow = {label: masks for label, masks in shown if masks[0].mean() >= _SHOWN}
        yield Footage(labels, np.stack([each.image for each in examples]), truth, follow)


def numbered(name: str) -> tuple[str, int]:
    """Sequence and number of a frame's name."""
    sequence, _, number = Path(name).stem.rpartition("_")
    return sequence, int("".join(letter for letter in number if letter.isdigit()) or 0)


def present(truth: np.ndarray, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The classes that a clip shows, and its truth in positions of these."""
    shown = [place for place in range(len(names)) if (truth == place).any()]
    table = np.full(len(names) + 1, -1, np.int32)  # -1 is the last
    table[shown] = np.arange(len(shown))
    return [names[place] for place in shown], table[truth]


if __name__ == "__main__":
    main()
