"""Selecting in the picture itself: prompts, answered by a SAM or by the model's own features, helped by words."""

from ovseg.pipeline.selection.select import Using, select

__all__ = ["Using", "select"]
