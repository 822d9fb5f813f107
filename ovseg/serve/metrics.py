"""What a server has done, as text that Prometheus reads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


class Metrics:
    """Counts of requests and their seconds; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()

    def count(self, place: str, status: int, seconds: float) -> None:
        """Count one request.

        Args:
            place: one of a fixed number of paths.
            status: of HTTP, that was answered.
            seconds: from its first line to the last byte of its answer.
        """
        with self._lock:
            self._requests[place, status] += 1
            self._seconds[place] += seconds  # type: ignore[assignment]  # a Counter of floats
            for bound in _BOUNDS:
                self._buckets[place, bound] += seconds <= bound

    def text(self, now: Mapping[str, float]) -> str:
        """Everything counted, and what is so now.

        Args:
            now: values by the name of a gauge or counter; names of counters end in ``_total``.
        """
        with self._lock:
            lines = ["# TYPE ovseg_requests_total counter"]
            for (place, status), number in sorted(self._requests.items()):
                lines.append(f'ovseg_requests_total{{path="{place}",status="{status}"}} {number}')
            lines.append("# TYPE ovseg_request_seconds histogram")
            for place, seconds in sorted(self._seconds.items()):
                count = sum(number for (where, _), number in self._requests.items() if where == place)
                for bound in _BOUNDS:
                    number = self._buckets[place, bound]
                    lines.append(f'ovseg_request_seconds_bucket{{path="{place}",le="{bound:g}"}} {number}')
                lines.append(f'ovseg_request_seconds_bucket{{path="{place}",le="+Inf"}} {count}')
                lines.append(f'ovseg_request_seconds_sum{{path="{place}"}} {seconds:.6f}')
                lines.append(f'ovseg_request_seconds_count{{path="{place}"}} {count}')
        for name, value in now.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE ovseg_{name} {kind}", f"ovseg_{name} {value:g}"]
        return "\n".join(lines) + "\n"
