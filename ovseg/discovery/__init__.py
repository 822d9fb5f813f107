"""Objects without words: proposals, groups of objects for a person to name, what photos have in common."""

from ovseg.discovery.cosalient import Cosaliency, cosaliency
from ovseg.discovery.discovery import Discovery, Group, Member, discover
from ovseg.discovery.export import named_concepts, write_named_labels
from ovseg.discovery.proposers import propose

__all__ = [
    "Cosaliency",
    "Discovery",
    "Group",
    "Member",
    "cosaliency",
    "discover",
    "named_concepts",
    "propose",
    "write_named_labels",
]
