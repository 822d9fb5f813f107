"""What MkDocs is told besides ``mkdocs.yml``: links of the repository become links of the site, formulas MathML.

A page may lie anywhere in the repository (``extra.included`` of ``mkdocs.yml``). Its links lead to files of the
repository, so that they work where these are read, too; what is no page and no picture is named without a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PICTURES = {".jpg", ".png", ".svg"}
_CODE_OR_LINK = re.compile(
    r"^(?P<fence>```+).*?^(?P=fence)$|(?P<code>`+)(?!`).*?(?P=code)|(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)",
    re.DOTALL | re.MULTILINE,
)
_UP = re.compile(r"^(\.\.?/)+")
_FORMULA = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def site_links(
    markdown: str, *, source: Path, page: str, pages: Mapping[Path, str], picture: Callable[[Path], str]
) -> str:
    """Markdown whose links of the repository lead to the site.

    Args:
        markdown: of a page.
        source: the file that it is from, absolute.
        page: its place on the site, such as ``tasks/count.md``.
        pages: the place of every page on the site, by the file that it is from.
        picture: puts a picture of the repository on the site and gives its place.

    Raises:
        FileNotFoundError: a link leads nowhere.
    """

    def replace(found: re.Match[str]) -> str:
        text, target = found["text"], found["target"]
        if text is None or target.startswith("#") or ":" in target:
            return found[0]
        path, _, anchor = target.partition("#")
        file = Path(os.path.normpath(source.parent / path))
        if not file.exists():
            raise FileNotFoundError(f"'{source}' links to '{target}', but there is no '{file}'")
        if file in pages:
            place = pages[file]
        elif file.suffix in PICTURES:
            place = picture(file)
        else:
            words = text[1:-1]
            return words if words.strip("`") == path else f"{words} (`{_UP.sub('', path)}`)"
        return f"{text}({os.path.relpath(place, Path(page).parent)}{'#' * bool(anchor)}{anchor})"

    return _CODE_OR_LINK.sub(replace, markdown)


def formulas(markdown: str) -> str:
    """Markdown with its blocks ``math``, which are LaTeX, as MathML, which browsers draw themselves."""
    from latex2mathml.converter import convert

    def draw(found: re.Match[str]) -> str:
        return f'<div class="formula">{convert(" ".join(found[1].split()), display="block")}</div>'

    return _FORMULA.sub(draw, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere in the repository."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    for place, source in config.extra["included"].items():
        files.append(File.generated(config, place, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Lead links to the site, and draw formulas."""
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent

    def picture(file: Path) -> str:
        place = file.relative_to(root).as_posix()
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(file)))
        return place

    pages = {Path(str(each.abs_src_path)): each.src_uri for each in files.documentation_pages()}
    source = Path(str(page.file.abs_src_path))
    try:
        linked = site_links(markdown, source=source, page=page.file.src_uri, pages=pages, picture=picture)
    except FileNotFoundError as error:
        raise PluginError(str(error)) from error
    return formulas(linked)
