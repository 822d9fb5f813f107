"""The classes that a data set's own file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovseg.errors import DatasetError, VocabularyError
from ovseg.evaluation.data.protocol import IDS, Protocol, same_names, with_classes
from ovseg.files import parse_json
from ovseg.vocabulary.label_files import parse_label_lines


def read_classes(protocol: Protocol, data: Path) -> Protocol:
    """``protocol`` with the classes that the data set's own file names, where the protocol lists none.

    Raises:
        DatasetError: the file is missing, empty, cut off, or names a class twice.
    """
    if not protocol.classes_from:
        return protocol
    path = next((data / name for name in protocol.classes_from if (data / name).is_file()), None)
    if path is None:
        raise DatasetError(
            f"'{data}' needs a file that names the classes: {' or '.join(protocol.classes_from)}; "
            "classes.txt holds a name a line (the id is the line's number from 0), "
            'categories.json {"ignore": 255, "categories": [{"id": 0, "name": "sky"}]}'
        )
    entries, ignore = _parse_classes(path, protocol)
    names = [entry["name"] for entry in entries]
    twice = same_names(names)
    if twice or not names:
        told = f"twice: {', '.join(twice)}" if twice else "it names none"
        raise DatasetError(f"'{path}' must name each class once; {told}")
    outside = [value for value in (*ignore, *(entry["ids"][0] for entry in entries)) if not 0 <= value < IDS]
    if outside:
        raise DatasetError(f"'{path}' must give ids in [0, {IDS}), as masks of 16 bits hold, got {outside[0]}")
    if protocol.classes_only:
        entries = _only(entries, protocol.classes_only, path)
    return with_classes(protocol, entries, ignore=ignore, source=f"'{path}'")


def ids_by_name(protocol: Protocol, path: Path) -> Protocol:
    """``protocol`` with the mask ids that the data set's list gives to the names of its classes."""
    if not path.is_file():
        raise DatasetError(f"the label list '{path}' is missing; {protocol.layout_help}")
    entries, _ = _parse_classes(path, protocol)
    ids = {entry["name"].replace(" ", ""): entry["ids"] for entry in entries}
    background = protocol.background.class_name
    missing = [name for name in protocol.names if name.replace(" ", "") not in ids and name != background]
    if missing:
        raise DatasetError(f"'{path}' does not name {', '.join(missing)}; is it the data set's own list?")
    classes = [
        entry.model_copy(update={"ids": ids.get(entry.name.replace(" ", ""), ())}) for entry in protocol.classes
    ]
    return protocol.model_copy(update={"classes": tuple(classes)})


def read_text(path: Path) -> str:
    """The text of one of the data set's own lists.

    Raises:
        DatasetError: it cannot be read, or is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"'{path}' must be a text file in UTF-8 ({error}); fetch it again") from error


def _parse_classes(path: Path, protocol: Protocol) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    text = read_text(path)
    if path.suffix == ".json":
        return _parse_categories(text, path)
    lines = text.rstrip().splitlines()
    blank = [number for number, line in enumerate(lines) if not line.strip()]
    if blank:
        raise DatasetError(f"'{path}' has an empty line {blank[0] + 1}; each line names the class of its number")
    try:
        named = parse_label_lines(lines, source=f"'{path}'")
    except VocabularyError as error:
        raise DatasetError(str(error)) from error
    return [{"name": name, "ids": (number,)} for number, name in named], protocol.ignore


def _parse_categories(text: str, path: Path) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    advice = 'it should read {"ignore": 255, "categories": [{"id": 0, "name": "sky"}]}'
    source = f"'{path}' is cut off or not a list of categories: it"
    content = parse_json(text, source=source, advice=advice, error=DatasetError)
    try:
        categories = content["categories"] if isinstance(content, dict) else content
        stated = content.get("ignore", 255) if isinstance(content, dict) else 255
        ignore = tuple(map(_whole, stated if isinstance(stated, list) else [stated]))
        entries = [
            {"name": _name(item["name"]), "ids": (_whole(item["id"]),), "thing": bool(item.get("isthing", 0))}
            for item in categories
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"'{path}' is not a list of categories ({error}); {advice}") from error
    return entries, ignore


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not str(value).lstrip("-").isdecimal():
        raise ValueError(f"expected a whole number, got {value!r:.40}")
    return int(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a name in quotes, got {value!r:.40}")
    return value


def _only(entries: list[dict[str, Any]], wanted: tuple[str, ...], path: Path) -> list[dict[str, Any]]:
    by_name = {entry["name"]: entry for entry in entries}
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise DatasetError(f"'{path}' does not name {', '.join(missing)}; is it the data set's own list?")
    return [by_name[name] for name in wanted]
