"""A result as notebooks show it."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from ovseg.escape import for_html

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

_SIDE = 800  # longest side of the picture, pixels


def page(result: SegmentationResult) -> str:
    """The overlay, at most 800 pixels a side, and a table of the labels; all text is escaped."""
    picture = result.overlay()
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    rows = "".join(
        f"<tr><td>{for_html(row.label)}</td><td>{row.area:.1%}</td>"
        f"<td>{f'{row.score:.2f}' if row.area else '-'}</td><td>{row.presence:.2f}</td>"
        f"<td>{'' if row.objects is None else row.objects}</td></tr>"
        for row in sorted(result.table(), key=lambda row: -row.area)
    )
    heading = "<tr><th>label</th><th>area</th><th>score</th><th>presence</th><th>count</th></tr>"
    return f'<div><img alt="overlay" src="data:image/png;base64,{data}"><table>{heading}{rows}</table></div>'
