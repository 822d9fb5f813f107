"""Every error that ovseg raises on purpose, and the helper for optional packages.

Messages follow one grammar: what was expected, what came, what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class OvsegError(Exception):
    """Base of all errors that a caller can cause; the command line prints it without a traceback."""


class ShapeError(OvsegError, ValueError):
    """A tensor or array has another shape, dtype or range than the one documented."""


class SpaceError(OvsegError, ValueError):
    """Two sets of vectors live in different embedding spaces."""


class VocabularyError(OvsegError, ValueError):
    """A list of labels cannot be used; the offending entry is named."""


class ImageError(OvsegError, ValueError):
    """An image cannot be read or is refused; the file is named."""


class TooLargeError(ImageError):
    """An image has more pixels than a limit, or a bound on memory, has room for."""


class ModelError(OvsegError, ValueError):
    """A model is unknown, incomplete, damaged, or cannot run on the chosen device."""


class ConfigError(OvsegError, ValueError):
    """A YAML file has an unknown key, a wrong type, or a value out of range."""


class DatasetError(OvsegError, ValueError):
    """A data set is incomplete or laid out differently than its protocol says."""


class OutputError(OvsegError, OSError):
    """A result cannot be written where the caller asked for it."""


class ClusterError(OvsegError, RuntimeError):
    """A Ray cluster cannot be joined, its machines lack something, or it lost the workers of a call."""


class StorageError(OvsegError, RuntimeError):
    """Object storage cannot be reached, or does not let the caller in; what is done so far is kept."""


class MissingDependencyError(OvsegError, ImportError):
    """An optional package is needed for this call and is not installed."""


def require(module: str, *, extra: str) -> Any:
    """The imported module, or an error that names the extra which installs it.

    Args:
        module: dotted name to import, such as ``"onnxruntime"``.
        extra: name of the optional-dependency group in ``pyproject.toml``.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"this needs the package '{package}', which is not installed; pip install 'ovseg[{extra}]'"
        ) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence: ``"; did you mean 'x'?"`` for the nearest known name, or ``"."`` when none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else "."
