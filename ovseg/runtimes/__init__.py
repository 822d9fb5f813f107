"""Models outside of PyTorch: graphs in ONNX's and OpenVINO's formats, written, checked and run."""

from ovseg.runtimes.export import export_model
from ovseg.runtimes.exported import Exported, read_exported

__all__ = ["Exported", "export_model", "read_exported"]
