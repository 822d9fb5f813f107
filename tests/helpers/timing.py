from __future__ import annotations

import time
from collections.abc import Callable


def processor_time(job: Callable[[], object]) -> float:
    """Seconds that ``job`` takes of the processor, in all threads; what else the machine does counts for nothing.

    For ratios of two jobs measured side by side: seconds of one machine say nothing about another.
    """
    started = time.process_time()
    job()
    return time.process_time() - started
