"""The data set that a protocol and a place name, whichever reader it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ovseg.errors import DatasetError
from ovseg.evaluation.data.check import check_all
from ovseg.evaluation.data.colours import open_coloured
from ovseg.evaluation.data.episodes import open_episodes
from ovseg.evaluation.data.examples import Dataset, check_same_size
from ovseg.evaluation.data.files import FileDataset, has_folders, open_files
from ovseg.evaluation.data.hub import open_hub
from ovseg.evaluation.data.labelled import open_labelled
from ovseg.evaluation.data.objects import open_objects
from ovseg.evaluation.data.protocol import Protocol
from ovseg.evaluation.data.shown import open_shown
from ovseg.images.hub import is_hub
from ovseg.storage import is_stored, mirror

__all__ = ["Dataset", "FileDataset", "check_data", "check_same_size", "open_dataset", "open_files"]


def open_dataset(protocol: Protocol, data: str | Path, *, labels: str = "all") -> Dataset:
    """The data set at ``data``, laid out as ``protocol`` says.

    Args:
        protocol: classes may still be unread; the returned data set's ``protocol`` has them.
        data: the data set's folder, also in storage (``s3://bucket/data``), of which a copy is made here
            (``storage.mirror``), or ``hf://owner/name[:split]`` for one on the Hugging Face hub.
        labels: label mode; with a subset, pixels of the other classes are ignored.

    Raises:
        DatasetError: the folder or a file is missing (it says which), or a split is empty.
        StorageError: storage cannot be reached, lets nobody in, or has more than a copy may take.
    """
    if is_stored(data):
        data = mirror(str(data))
    if is_hub(data) and protocol.objects is not None:
        raise DatasetError(
            f"'{protocol.name}' reads annotations in COCO's format from a folder, got '{data}'; fetch the data set"
        )
    if is_hub(data):
        return open_hub(protocol, str(data), labels=labels)
    if protocol.objects is not None:
        return open_objects(protocol, Path(data), labels=labels)
    if protocol.episodes is not None and protocol.episodes.kind == "shown":
        return open_shown(protocol, protocol.episodes, Path(data), labels=labels)
    if protocol.episodes is not None:
        return open_episodes(protocol, Path(data))
    if protocol.labelled:
        there = any(has_folders(layout, protocol, Path(data)) for layout in protocol.layouts)
        found = (open_coloured if there else open_labelled)(protocol, Path(data), labels=labels)
        if found is not None:
            return found
    return open_files(protocol, Path(data), labels=labels)


def check_data(protocol: Protocol, data: str | Path) -> Iterator[str]:
    """Read every file of the data set and yield a line for each problem; nothing when all is well."""
    _, problems, _ = check_all(open_dataset(protocol, data))
    yield from problems
