"""Training of small heads on frozen encoders."""

from ovseg.training.config import TrainingConfig
from ovseg.training.recipes import load_training
from ovseg.training.runs import train

__all__ = ["TrainingConfig", "load_training", "train"]
