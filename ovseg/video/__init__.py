"""Clips: words on key frames, carried between them by which cells look alike."""

from ovseg.video.options import VideoOptions
from ovseg.video.reading import Clip
from ovseg.video.segment import segment_video
from ovseg.video.track import VideoFrame

__all__ = ["Clip", "VideoFrame", "VideoOptions", "segment_video"]
