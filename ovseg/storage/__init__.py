"""Photos and results in object storage, through fsspec: nothing else in ovseg knows whose storage it is."""

from ovseg.storage.copies import mirror
from ovseg.storage.objects import Stored, below, check_bucket, fetch, look, matching, put, read, write
from ovseg.storage.opening import is_stored
from ovseg.storage.shelf import Shelf, results_in, room_for, synced

__all__ = [
    "Shelf",
    "Stored",
    "below",
    "check_bucket",
    "fetch",
    "is_stored",
    "look",
    "matching",
    "mirror",
    "put",
    "read",
    "results_in",
    "room_for",
    "synced",
    "write",
]
