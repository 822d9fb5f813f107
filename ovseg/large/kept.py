"""The scores and objects of windows on the disk, so that a killed run goes on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg.errors import ConfigError, OutputError
from ovseg.files import sha256_of_bytes
from ovseg.identity import claim
from ovseg.journal import Journal, read_journal
from ovseg.large.objects import SceneObject

_SETTINGS, _JOURNAL, _SCORES = "settings.json", "windows.jsonl", "scores.bin"

Scores = npt.NDArray[np.float16]


class KeptScores:
    """(K, h, w) float16 of each window in one file, and a journal that has its objects and says which are whole.

    Args:
        folder: of the files. What was kept there with other settings is removed.
        settings: everything that decides the scores.
        shape: (K, h, w) of every window.

    Raises:
        OutputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
        self.folder = folder
        self.shape = shape
        self._bytes = 2 * int(np.prod(shape))
        try:
            claim(folder / _SETTINGS, {**settings, "shape": list(shape)}, what="scores", advice="begin anew")
            rows = read_journal(folder / _JOURNAL)
        except ConfigError:  # of another picture, or asked otherwise, or damaged
            shutil.rmtree(folder)
            claim(folder / _SETTINGS, {**settings, "shape": list(shape)}, what="scores", advice="begin anew")
            rows = []
        (folder / _SCORES).touch()
        self._file = open(folder / _SCORES, "r+b")  # noqa: SIM115 - closed by ``close``
        self._journal = Journal(folder / _JOURNAL)
        self._digests: dict[int, str | None] = {}
        self._objects: dict[int, list[SceneObject]] = {}
        for row in rows:
            if row["digest"] is None or self._digest(self._read(row["window"])) == row["digest"]:
                self._digests[row["window"]] = row["digest"]
                self._objects[row["window"]] = [SceneObject(**each) for each in row["objects"]]

    def __enter__(self) -> KeptScores:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        self._file.close()

    def __contains__(self, window: int) -> bool:
        """Whether the window is done."""
        return window in self._digests

    def __len__(self) -> int:
        """Windows that are done."""
        return len(self._digests)

    def add(self, window: int, scores: Scores | None, objects: Sequence[SceneObject] = ()) -> None:
        """Keep the scores of a window, or that it has none, and the objects that were seen there.

        Raises:
            OutputError: the disk is full.
        """
        digest = None
        if scores is not None:
            content = np.ascontiguousarray(scores, np.float16).tobytes()
            digest = self._digest(content)
            try:
                self._file.seek(window * self._bytes)
                self._file.write(content)
                self._file.flush()
            except OSError as error:
                raise OutputError(
                    f"cannot write to '{self.folder}': {error.strerror}; is the disk full?"
                ) from error
        self._journal.append({"window": window, "digest": digest, "objects": [asdict(each) for each in objects]})
        self._digests[window] = digest
        self._objects[window] = list(objects)

    def scores(self, window: int) -> Scores | None:
        """(K, h, w) of a window that is done; None where it has none."""
        if self._digests[window] is None:
            return None
        return np.frombuffer(self._read(window), np.float16).reshape(self.shape)

    def objects(self, window: int) -> list[SceneObject]:
        """What was seen in a window that is done, in pixels of the picture."""
        return self._objects[window]

    def remove(self) -> None:
        """Close the files, and remove them."""
        self.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, window: int) -> bytes:
        self._file.seek(window * self._bytes)
        return self._file.read(self._bytes)

    @staticmethod
    def _digest(content: bytes) -> str:
        return sha256_of_bytes(content)[:16]
