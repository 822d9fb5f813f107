"""Image banks and concepts learned from unlabeled images: retrieve, co-segment, look, save one small file."""

from ovseg.bank.bank import ImageBank
from ovseg.bank.build import BankOptions
from ovseg.bank.concepts import ConceptReference, ConceptSet
from ovseg.bank.learn import learn_concepts
from ovseg.bank.search import Region, Retrieved

__all__ = [
    "BankOptions",
    "ConceptReference",
    "ConceptSet",
    "ImageBank",
    "Region",
    "Retrieved",
    "learn_concepts",
]
