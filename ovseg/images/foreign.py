"""Formats that are met among photos and need another decoder than Pillow: what they are called, and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format by its name, the suffixes of its files, how they begin, and what to do with one."""

    name: str
    suffixes: tuple[str, ...]
    brands: tuple[bytes, ...]  # at byte 8 of a container ("ftyp", "RIFF"), or at the very beginning
    advice: str


_TO_JPEG = "convert it to JPEG or PNG"
_RAW = Format(
    "camera raw",
    (".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    (b"crx ", b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"IIU\0"),
    "develop it to JPEG or 8-bit PNG first; what Pillow finds in it is a small preview",
)
FOREIGN = (
    Format(
        "HEIC",
        (".heic", ".heif", ".hif"),
        (b"heic", b"heix", b"hevc", b"mif1", b"msf1"),
        f"{_TO_JPEG}, or in Python install pillow-heif and call pillow_heif.register_heif_opener()",
    ),
    Format(
        "AVIF",
        (),
        (b"avif", b"avis"),
        f"update Pillow, whose copy here has no decoder for this file, or {_TO_JPEG}",
    ),
    _RAW,
    Format("JPEG XL", (".jxl",), (b"\xff\n", b"\0\0\0\x0cJXL "), _TO_JPEG),
    Format(
        "a web page",
        (),
        (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"),
        "give the address or the file of the image itself",
    ),
    Format("a PDF", (".pdf",), (b"%PDF",), "export its pages as PNG"),
    Format("an SVG drawing", (".svg",), (b"<svg", b"<?xml"), "export it as PNG"),
    Format(
        "a video",
        (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"),
        (b"isom", b"iso2", b"mp4", b"qt  ", b"M4V", b"avc1", b"\x1aE\xdf\xa3", b"AVI "),
        "give it to 'ovseg video', or write its frames as images, as by ffmpeg -i VIDEO frames/%05d.jpg",
    ),
)
FOREIGN_SUFFIXES = frozenset(suffix for each in FOREIGN for suffix in each.suffixes)
RAW_SUFFIXES = frozenset(_RAW.suffixes)


def foreign_format(head: bytes, suffix: str) -> Format | None:
    """The format that a file's first bytes say, or else its suffix (with dot, in lower case)."""
    brand = head[8:16] if head[4:8] == b"ftyp" or head[:4] == b"RIFF" else head.lstrip()
    by_content = (each for each in FOREIGN if brand.startswith(each.brands))
    by_suffix = (each for each in FOREIGN if suffix in each.suffixes)
    return next(by_content, None) or next(by_suffix, None)
