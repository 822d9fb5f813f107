"""Frozen features computed once: arrays on disk, known by the content of the files that they were made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from ovseg.errors import DatasetError
from ovseg.files import atomic_paths, to_json
from ovseg.identity import FileMark, digest
from ovseg.images.resize import prepare, working_size
from ovseg.models.model import Model
from ovseg.progress import progress_bar

KEY = "key.json"
Arrays = dict[str, NDArray[Any]]


class FeatureCache:
    """Entries of arrays, each in a folder named by the digest of all that decides them.

    Files count by their content, so an entry never has to change: an edited photo or mask has another entry. Runs
    and processes may share a folder, whatever their encoders and data.

    Args:
        folder: where the entries lie; None keeps nothing, and everything is computed whenever it is asked for.
        progress: show a bar while entries are made.
    """

    def __init__(self, folder: Path | None, *, progress: bool = False) -> None:
        self.folder, self.progress = folder, progress
        self._marks: dict[Path, FileMark] = {}

    def content(self, path: Path) -> str:
        """Hexadecimal SHA-256 of a file as it was when this cache first met it, so that a run sees one content.

        Raises:
            DatasetError: it cannot be read.
        """
        try:
            if path not in self._marks:
                self._marks[path] = FileMark.of(path)
        except OSError as error:
            raise DatasetError(f"cannot read '{path}': {error.strerror}; complete the data") from error
        return self._marks[path].sha256

    def contents(self, examples: Iterable[tuple[str, Sequence[Path]]], *reading: Any) -> str:
        """What named examples are known by: their number, and the digest of names, files and ``reading``.

        Args:
            examples: name and files of each.
            reading: plain values that decide what is read from the files.

        Raises:
            DatasetError: a file cannot be read.
        """
        rows = [[name, *map(self.content, files)] for name, files in examples]
        return f"{len(rows)} images of content {digest(rows, *reading)}"

    def fetch(self, key: Mapping[str, Any], files: Sequence[Path], make: Callable[[], Arrays]) -> Arrays:
        """The arrays of an entry, memory-mapped; those of ``make`` where there is no such entry yet.

        Args:
            key: plain values that decide the arrays, besides the files.
            files: what ``make`` reads.
            make: computes the arrays.

        Raises:
            DatasetError: a file cannot be read, or has changed since the run began.
        """
        if self.folder is None:
            return make()
        whole = {**key, "files": [self.content(file) for file in files]}
        entry = self.folder / digest(whole)
        if not (entry / KEY).is_file():
            arrays = make()
            self._refuse_changed(files)
            # the key comes last, so an entry that has one is whole
            with atomic_paths([*(entry / f"{name}.npy" for name in arrays), entry / KEY]) as paths:
                for path, array in zip(paths, arrays.values(), strict=False):
                    np.save(path, array)
                paths[-1].write_text(to_json(whole), encoding="utf-8")
        # names that begin with a dot are files that a killed process was writing
        return {path.stem: np.load(path, mmap_mode="r") for path in entry.glob("[!.]*.npy")}

    def fill(self, what: str, count: int, fetch: Callable[[int], object], *, accelerator: Accelerator) -> None:
        """``fetch`` the entries 0 to ``count`` − 1, each process its share; all go on when all are there.

        Raises:
            DatasetError: a file that the cache knows has changed since the run began.
        """
        if self.folder is None:
            return
        mine = range(accelerator.process_index, count, accelerator.num_processes)
        shown = self.progress and accelerator.is_main_process
        with progress_bar(f"features of {what}", total=len(mine), shown=shown) as advance:
            for number in mine:
                fetch(number)
                advance()
        self._refuse_changed(self._marks)  # also images of which an entry holds a part
        accelerator.wait_for_everyone()

    def _refuse_changed(self, files: Iterable[Path]) -> None:
        for file in files:
            if not self._marks[file].still(file):
                raise DatasetError(f"'{file}' changed while it was read; start again once the data are complete")


def encoder_pixels(model: Model, image: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> Tensor:
    """(H, W, 3) uint8 to the (1, 3, H', W') pixels of the whole image, at ``size`` or as the model file says."""
    sizes, spec = model.config.input, model.image.spec
    height, width = image.shape[:2]
    size = size or working_size(
        (height, width),
        short_side=sizes.short_side,
        max_long_side=sizes.max_long_side,
        stride=spec.granularity,
    )
    return prepare(image, spec, size=size)[0]
