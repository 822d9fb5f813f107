"""The way of an image: encode, queries, logits, modifiers, decide, upsample; composed by the segmenter."""
