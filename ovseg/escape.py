"""Text from users made harmless where it is put out: on a terminal, in Markdown, in HTML.

A label or the name of a file may hold anything: terminal codes, line breaks, marks that turn the order of letters,
or the signs by which a document is built. It passes through here once, at the place where it is put out.
"""

from __future__ import annotations

import html
import re
import unicodedata

_UNSEEN = {"Cc", "Zl", "Zp", "Cs"}  # control characters, line and paragraph separators, halves of pairs
_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # order of letters
_MARKDOWN = re.compile(r"([\\`*_\[\]|~#$])")


def one_line(text: object) -> str:
    r"""The text with everything that is no letter to be seen written out, on one line.

    >>> one_line("a\x1b[31m cat\nand dog")
    'a\\x1b[31m cat\\nand dog'
    """
    return "".join(_written_out(letter) for letter in str(text))


def for_terminal(text: object) -> str:
    """The same for text of several lines: its line breaks and tabulators stay."""
    return "".join(letter if letter in "\n\t" else _written_out(letter) for letter in str(text))


def for_markdown(text: object) -> str:
    r"""The text as it is read in a line or a table cell of Markdown: no sign of it counts, and no HTML.

    >>> for_markdown("<b>|**x**")
    '&lt;b&gt;\\|\\*\\*x\\*\\*'
    """
    escaped = _MARKDOWN.sub(r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_code(text: object) -> str:
    r"""The text between backticks, as code in a line or a table cell of Markdown.

    >>> as_code("a`b|c")
    '``a`b\\|c``'
    """
    line = one_line(text)
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if line[:1] in ("`", "") or line[-1:] == "`" else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", r"\|")


def for_html(text: object) -> str:
    """The text as it is read in HTML, between tags or in an attribute in quotes."""
    return html.escape(one_line(text))


def for_xml(text: object) -> str:
    r"""The text as it is read in XML, between tags or in an attribute in quotes.

    Line breaks and tabulators are kept; characters that XML cannot hold are written out.

    >>> for_xml('a"b & \x00\n')
    'a&quot;b &amp; \\x00&#10;'
    """
    held = "".join(letter if letter in "\t\n\r" else _held(letter) for letter in str(text))
    return html.escape(held, quote=True).replace("\t", "&#9;").replace("\n", "&#10;").replace("\r", "&#13;")


def for_json(text: str) -> str:
    r"""A JSON text on one line, in whose strings such characters are escaped: it says the same.

    >>> for_json('["a\x9b"]')
    '["a\\u009b"]'
    """
    return "".join(f"\\u{ord(letter):04x}" if _is_unseen(letter) else letter for letter in text)


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii") if _is_unseen(letter) else letter


def _held(letter: str) -> str:
    """The letter, or how it is written in code where XML has no place for it."""
    unheld = letter < " " or "\ud800" <= letter <= "\udfff" or letter in "\ufffe\uffff"
    return letter.encode("unicode_escape").decode("ascii") if unheld else letter


def _is_unseen(letter: str) -> bool:
    return unicodedata.category(letter) in _UNSEEN or letter in _TURNING
