"""The pages of the project's documents, and the code that they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code between fences.

    Attributes:
        page: the file that shows it.
        line: number of its first line of code, from 1.
        language: what the fence says.
        code: its lines.
        reason: why it is not run; empty where it is.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command line; ``\\`` at its end joins it to the next, ``#`` begins a comment."""
        for line in self.code.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def pages() -> list[Path]:
    """Every page of the site, and what visitors of the repository read."""
    included = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["extra"]["included"].values()
    return sorted({*(ROOT / "docs").rglob("*.md"), *(ROOT / each for each in included)})


def blocks(page: Path) -> list[Block]:
    """The blocks of code that a page shows, in order."""
    text = page.read_text("utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(page, line, match["language"], match["code"], match["reason"] or ""))
    return found


def indented(page: Path) -> Block:
    """The commands of ovseg that a page shows in lines that four blanks mark as code, as one block."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    lines = re.findall(r"^    ((?:ovseg .*\\\n)*ovseg .*\n)", text, re.MULTILINE)
    return Block(page, 1, "bash", "".join(lines), "")
