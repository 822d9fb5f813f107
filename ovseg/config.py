"""YAML files to validated, frozen objects: unknown keys are refused with the nearest known key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ovseg.errors import ConfigError, did_you_mean


class Config(BaseModel):
    """Base of every object that is filled from YAML: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ConfigT = TypeVar("ConfigT", bound=BaseModel)
EntryT = TypeVar("EntryT")


def choose(kind: str, name: str, table: Mapping[str, EntryT]) -> EntryT:
    """The entry ``name`` of a table of things of one kind, such as recipes.

    Raises:
        ConfigError: there is none; the nearest is offered.
    """
    if name not in table:
        raise ConfigError(f"unknown {kind} '{name}'{did_you_mean(name, table)} There are: {', '.join(table)}")
    return table[name]


def check_options(title: str, function: Callable[..., Any], options: Iterable[str], *, given: int) -> None:
    """Refuse options that are no parameters of ``function``.

    Args:
        title: what the options belong to, for the error.
        function: takes them as keywords.
        options: their names.
        given: how many parameters the program fills in itself; they come first.

    Raises:
        ConfigError: names the option and the nearest known one.
    """
    known = list(inspect.signature(function).parameters)[given:]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{title} has no option '{name}'{did_you_mean(name, known)} It takes: {', '.join(known) or 'none'}"
            )


def read_yaml(path: str | Path) -> Any:
    """The plain content of a YAML file (safe loader: no tags that build objects).

    Raises:
        ConfigError: the file is missing, cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file '{path}'") from error
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}; check its permissions") from error
    except RecursionError as error:
        raise ConfigError(f"'{path}' is nested too deep to be read; write it flatter") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or no date or number in spite of its form
        raise ConfigError(f"'{path}' is not valid YAML: {error}") from error


def load_config(kind: type[ConfigT], path: str | Path, *, overrides: dict[str, Any] | None = None) -> ConfigT:
    """The YAML file at ``path`` as a ``kind``.

    Args:
        kind: the pydantic model to fill.
        path: the file.
        overrides: values that replace those of the file; dotted keys reach into sections.

    Raises:
        ConfigError: a key is unknown (the nearest is offered), missing or ill-typed; the file is named.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"'{path}' must hold a mapping of keys to values, got {type(values).__name__}")
    for dotted, value in (overrides or {}).items():
        _set(values, dotted, value)
    return parse_config(kind, values, source=str(path))


def parse_config(kind: type[ConfigT], values: dict[str, Any], *, source: str) -> ConfigT:
    """``values`` as a ``kind``; ``source`` is named in the error."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem, kind) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(lines)) from error


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    place: Any = values
    for section in sections:
        place = _inside(place, section, dotted)
    if isinstance(place, list):
        _inside(place, key, dotted)
        place[int(key)] = value
    else:
        place[key] = value


def _inside(values: Any, section: str, dotted: str) -> Any:
    """The section of a mapping, made if it is not there, or the entry of a list by its number."""
    found = values.setdefault(section, {}) if isinstance(values, dict) else None
    if isinstance(values, list) and section.isdigit() and int(section) < len(values):
        found = values[int(section)]
    if isinstance(found, dict | list) or (isinstance(values, list) and found is not None):
        return found
    raise ConfigError(f"cannot set '{dotted}': '{section}' is not a section")


def _explain(problem: Any, kind: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"'{where}': {problem['msg'].removeprefix('Value error, ')}"
    key = str(problem["loc"][-1])
    return f"unknown key '{where}'{did_you_mean(key, _field_names(kind)).removesuffix('.')}"


def _field_names(kind: type[BaseModel]) -> set[str]:
    """Names of the fields of ``kind`` and, recursively, of the sections inside it."""
    names: set[str] = set()
    for name, field in kind.model_fields.items():
        names.add(name)
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel) and candidate is not kind:
                names |= _field_names(candidate)
    return names
