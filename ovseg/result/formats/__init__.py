"""Formats of other programs: labelling tools, trainers, GIS and tables, each a line of ``FORMATS``."""

from ovseg.result.formats.base import Format, Options, Place
from ovseg.result.formats.registry import FORMATS, written

__all__ = ["FORMATS", "Format", "Options", "Place", "written"]
