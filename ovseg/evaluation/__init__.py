"""Evaluation under published protocols: anything with ``segment(image, labels)``, one YAML file a benchmark.

>>> from ovseg.evaluation import protocol_names
>>> "voc20" in protocol_names()
True
"""

from ovseg.evaluation.data.datasets import check_data
from ovseg.evaluation.data.protocol import Protocol, load_protocol, protocol_names
from ovseg.evaluation.report.compare import Comparison, compare_reports, regression
from ovseg.evaluation.report.report import EvaluationReport
from ovseg.evaluation.run.runner import evaluate
from ovseg.evaluation.run.task import RunOptions, Task

__all__ = [
    "Comparison",
    "EvaluationReport",
    "Protocol",
    "RunOptions",
    "Task",
    "check_data",
    "compare_reports",
    "evaluate",
    "load_protocol",
    "protocol_names",
    "regression",
]
