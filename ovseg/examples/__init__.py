"""What pictures of a label teach: shots become a sight that judges the cells of other pictures."""

from ovseg.examples.methods import METHODS, MeanSight, teach
from ovseg.examples.shot import Shot, Sight, View

__all__ = ["METHODS", "MeanSight", "Shot", "Sight", "View", "teach"]
