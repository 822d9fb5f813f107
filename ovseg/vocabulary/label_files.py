"""Lists of labels in files: text, JSON and YAML in their usual forms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ovseg.errors import VocabularyError
from ovseg.files import parse_json

FORMS = "one name a line, '17: wall' on every line, a JSON list or object, or YAML with 'names:'"

Named = tuple[int, str]
_NUMBERED = re.compile(r"(\d+)\s*[:\t]\s*(.+)")
_BEGINS_WITH_NUMBER = re.compile(r"\d+[\s.,;)]\s*\S")


def read_label_file(path: Path) -> list[Named]:
    """The numbers and names that a file lists, in its order.

    Forms: text with one name a line, or ``17: wall`` (or a tab) on every line, with ``#`` before comments; a JSON
    list of names or of objects with ``name`` and perhaps ``id``, or an object from number to name; the same in
    YAML; and either under ``names`` (YOLO's ``data.yaml``) or ``categories`` (COCO). Quotes around a name go.

    Returns:
        Pairs of number and name; they are counted from 0 where the file has no numbers.

    Raises:
        VocabularyError: the file cannot be read or has another form; the line or entry is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(
            f"expected a text file with one label per line, cannot read '{path}' ({error}); check the path"
        ) from error
    kind = path.suffix.lower()
    try:
        if kind == ".json":
            advice = f"expected {FORMS}"
            named = _entries(
                parse_json(text, source=f"'{path}' is not valid JSON: it", advice=advice, error=VocabularyError),
                path,
            )
        elif kind in {".yaml", ".yml"}:
            named = _entries(yaml.safe_load(text), path)
        else:
            named = parse_label_lines(text.splitlines(), source=f"'{path}'")
    except RecursionError as error:
        raise VocabularyError(f"'{path}' is nested too deep to be read; expected {FORMS}") from error
    except VocabularyError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        told = " ".join(str(error).split())
        raise VocabularyError(f"'{path}' is not valid {kind[1:].upper()} ({told}); expected {FORMS}") from error
    if not named:
        raise VocabularyError(f"'{path}' must name at least one label, got none; expected {FORMS}")
    return named


def names_in(path: Path | None) -> list[str]:
    """The names that a file lists, in its order; none where no file is given.

    Raises:
        VocabularyError: as ``read_label_file``.
    """
    return [] if path is None else [name for _, name in read_label_file(path)]


def parse_label_lines(lines: Sequence[str], *, source: str) -> list[Named]:
    """The numbers and names of lines that are neither blank nor comments; see ``read_label_file``.

    Raises:
        VocabularyError: some lines are numbered and others not, or numbers come without ``:``.
    """
    told = [(number, re.sub(r"(^|\s)#.*", "", line).strip()) for number, line in enumerate(lines, start=1)]
    told = [(number, line) for number, line in told if line]
    numbered = [_NUMBERED.fullmatch(line) for _, line in told]
    if told and all(numbered):
        return [(int(match[1]), _unquoted(match[2])) for match in numbered if match]
    if any(numbered):
        number, line = next(each for each, match in zip(told, numbered, strict=True) if match is None)
        raise VocabularyError(
            f"{source} line {number}: expected a number and a name, as other lines have, got {line!r}; "
            "write all lines as '17: wall', or none"
        )
    if len(told) > 1 and all(_BEGINS_WITH_NUMBER.match(line) for _, line in told):
        number, line = told[0]
        raise VocabularyError(
            f"{source} line {number}: expected a name, or a number with a colon, got {line!r}; write '17: wall'"
        )
    return [(position, _unquoted(line)) for position, (_, line) in enumerate(told)]


def _entries(content: Any, path: Path) -> list[Named]:
    """What a JSON or YAML document lists."""
    if isinstance(content, dict):
        for key in ("names", "categories"):
            if key in content:
                return _entries(content[key], path)
        return [_entry(name, key, path) for key, name in content.items()]
    if isinstance(content, list):
        return [
            _entry(each.get("name"), each.get("id", position), path)
            if isinstance(each, dict)
            else _entry(each, position, path)
            for position, each in enumerate(content)
        ]
    raise VocabularyError(f"'{path}' must list labels, got {type(content).__name__}; expected {FORMS}")


def _entry(name: Any, number: Any, path: Path) -> Named:
    if not isinstance(name, str) or not str(number).isdecimal():
        raise VocabularyError(
            f"'{path}': expected a number and a name in quotes, got {number!r} and {name!r}; expected {FORMS}"
        )
    return int(number), name


def _unquoted(name: str) -> str:
    """The name without a pair of quotes around it."""
    quoted = len(name) > 2 and name[0] == name[-1] and name[0] in "'\""
    return name[1:-1].strip() if quoted else name
