from __future__ import annotations

from ovseg.serve.metrics import Metrics


def test_counts_sums_and_buckets_are_those_of_the_requests() -> None:
    metrics = Metrics()
    for status, seconds in ((200, 0.05), (200, 0.3), (429, 70.0)):
        metrics.count("/segment", status, seconds)
    lines = metrics.text({"cache_hits_total": 3, "queue_taken": 1}).splitlines()
    for line in (
        'ovseg_requests_total{path="/segment",status="200"} 2',
        'ovseg_requests_total{path="/segment",status="429"} 1',
        'ovseg_request_seconds_bucket{path="/segment",le="0.1"} 1',
        'ovseg_request_seconds_bucket{path="/segment",le="0.5"} 2',
        'ovseg_request_seconds_bucket{path="/segment",le="60"} 2',
        'ovseg_request_seconds_bucket{path="/segment",le="+Inf"} 3',
        'ovseg_request_seconds_sum{path="/segment"} 70.350000',
        'ovseg_request_seconds_count{path="/segment"} 3',
        "# TYPE ovseg_cache_hits_total counter",
        "ovseg_cache_hits_total 3",
        "# TYPE ovseg_queue_taken gauge",
    ):
        assert line in lines
