"""Image banks: vectors of unlabeled images that are searched by words and pictures."""

from ovseg.bank.bank import ImageBank
from ovseg.bank.options import BankOptions
from ovseg.bank.search import Region, Retrieved

__all__ = ["BankOptions", "ImageBank", "Region", "Retrieved"]
