"""Data sets of the Hugging Face hub, and folders that its library saved: one way to name and to open both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.errors import DatasetError
from ovseg.network import quiet_attempts

_NAME = re.compile(r"hf:(?://)?+(?P<repository>.+?)(?::(?P<split>[^/\\]+))?")


def is_hub(source: str | Path) -> bool:
    """Whether ``source`` names a data set of the hub and not a file."""
    return str(source).startswith("hf:")


@dataclass(frozen=True)
class HubName:
    """What ``hf://owner/name``, ``hf://owner/name:split`` or, shorter, ``hf:owner/name`` stands for.

    Attributes:
        repository: ``owner/name``, or a folder that ``save_to_disk`` wrote.
        split: such as ``train`` or ``train[:10%]``; None where the name leaves it open.
    """

    repository: str
    split: str | None = None

    @classmethod
    def parse(cls, source: str) -> HubName:
        """The parts of ``source``; a colon that belongs to the name of an existing folder starts no split.

        Raises:
            DatasetError: it is no such name.

        >>> HubName.parse("hf://owner/name:train")
        HubName(repository='owner/name', split='train')
        """
        parts = _NAME.fullmatch(source)
        if parts is None:
            raise DatasetError(f"expected hf://owner/name[:split] or hf://FOLDER[:split], got '{source}'")
        whole = source[parts.start("repository") :]
        return cls(whole) if Path(whole).is_dir() else cls(parts["repository"], parts["split"])

    def open(self, *, split: str | None = None) -> Any:
        """The rows, a ``datasets.Dataset``; a saved folder without splits is taken as it is.

        Args:
            split: where the name states none; None takes the only one there is.

        Raises:
            DatasetError: it cannot be had, or has no such split.
        """
        import datasets

        split = self.split or split
        try:
            if Path(self.repository).is_dir():
                found = datasets.load_from_disk(self.repository)
            else:
                with quiet_attempts():
                    found = datasets.load_dataset(self.repository, split=split)
        except Exception as error:  # the library raises a dozen kinds for "not there" and "no network"
            told = "" if split is None else f"the split '{split}' of "
            raise DatasetError(
                f"cannot load {told}'hf://{self.repository}': {error}; check the name, the split and the network, "
                "or download it first and give hf://FOLDER"
            ) from error
        if not isinstance(found, dict):
            return found
        if split is None and len(found) == 1:
            return next(iter(found.values()))
        if split not in found:
            raise DatasetError(
                f"'hf://{self.repository}' has the splits {', '.join(found)}, got {split}; choose one of them"
            )
        return found[split]


def image_column(rows: Any) -> Any:
    """``rows`` with their first column of images alone, undecoded: ``bytes``, or the ``path`` of a file.

    Raises:
        DatasetError: there is no such column.
    """
    import datasets

    names = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not names:
        raise DatasetError(f"the data set must have a column of images, got {', '.join(rows.features)}")
    return rows.select_columns(names[:1]).cast_column(names[0], datasets.Image(decode=False))
