"""Work on many machines at once, by Ray (extra ``distributed``)."""

from ovseg.distributed.cluster import ALONE, check_address, joined, worker_threads
from ovseg.distributed.pool import spread

__all__ = ["ALONE", "check_address", "joined", "spread", "worker_threads"]
