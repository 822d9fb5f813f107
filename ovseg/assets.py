"""Where the data files live: the checkout's folders first, then the copies inside the wheel.

The only module that knows these places. ``prompts/``, ``configs/``, ``retrieval/`` and
``evaluation/benchmarks/`` are data that users edit; a wheel carries them in ``ovseg/_assets/``.
"""

from __future__ import annotations

from pathlib import Path

from ovseg.errors import ConfigError, did_you_mean

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent


def asset_root(top: str) -> Path:
    """The folder that holds the asset tree ``top``: prompts, configs, retrieval, evaluation, examples or models."""
    if top != "models" and (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / top).is_dir():
        return _CHECKOUT / top
    return _PACKAGE / "_assets" / top


def asset_names(folder: str) -> list[str]:
    """Sorted names (without ``.yaml``) of the data files in ``folder``, such as ``"configs/models"``."""
    top, _, rest = folder.partition("/")
    return sorted(path.stem for path in (asset_root(top) / rest).glob("*.yaml"))


def find_asset(folder: str, name: str) -> Path:
    """Path of the YAML file ``name`` in ``folder``; a path to an existing file is returned as it is.

    Raises:
        ConfigError: there is no such file; the nearest name is offered.
    """
    given = Path(name)
    if given.suffix in {".yaml", ".yml"} and given.is_file():
        return given
    top, _, rest = folder.partition("/")
    path = asset_root(top) / rest / f"{name}.yaml"
    known = asset_names(folder)
    if name not in known:
        raise ConfigError(
            f"no file '{name}' in {folder}{did_you_mean(name, known)} "
            f"There are: {', '.join(known) or 'none'}; or give the path of a .yaml file"
        )
    return path
