"""Concepts learned from unlabeled images: retrieve, co-segment, calibrate, look, steer, save one small file."""

from ovseg.concepts.concept_set import ConceptReference, ConceptSet
from ovseg.concepts.learn import learn_concepts
from ovseg.concepts.refine import refine_concepts

__all__ = ["ConceptReference", "ConceptSet", "learn_concepts", "refine_concepts"]
