"""What to look for: labels, their synonyms and contrasts, and the background that competes with them."""

from ovseg.vocabulary.labels import Background, Concept, Vocabulary

__all__ = ["Background", "Concept", "Vocabulary"]
