"""Image banks: vectors of unlabeled images that are searched by words and pictures."""

from ovseg.bank.bank import ImageBank
from ovseg.bank.options import BankOptions
from ovseg.bank.search import Region, Retrieved
from ovseg.bank.suggest import suggest
from ovseg.bank.suggestions import Suggestion, Suggestions

__all__ = ["BankOptions", "ImageBank", "Region", "Retrieved", "Suggestion", "Suggestions", "suggest"]
