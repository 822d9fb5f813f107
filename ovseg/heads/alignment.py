"""The alignment of ``mini``: a vision encoder and a sentence encoder made one space.

Three kinds of evidence are added, each a dot product, so that their sum is one dot product as well:

1. a trained map: a linear layer on the pixels and a small network on the text, compared by cosine
   (as Talk2DINO does, Barsellotti et al., ICCV 2025, but with few masks instead of captions);
2. classifier prototypes: a phrase becomes the mean of the ImageNet classifier's columns, weighted by how
   near the phrase is to the names of the classes (ConSE, Norouzi et al., ICLR 2014, in weight space);
3. detector evidence: a phrase becomes a mixture of the detector's classes, if it is near one of their names.

The last two need no mask, so they carry names that no mask was ever drawn for.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.embedded.sentence import SPACE as TEXT_SPACE
from ovseg.encoders.embedded.vision import PARTS, STRIDE, part_slices
from ovseg.encoders.embedded.vision import SPACE as FEATURE_SPACE
from ovseg.encoders.spec import DenseFeatures
from ovseg.encoders.weights import load_module, load_weights
from ovseg.text import check_space

TRAINED_PARTS = ("fine", "middle", "body", "near", "mid", "far")
_TEXT, _HIDDEN, _JOINT = 384, 512, 256
_CLASSES, _THINGS, _PROTOTYPE = 1000, 80, 1280
