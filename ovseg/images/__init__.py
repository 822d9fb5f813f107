"""Images in and out: found, decoded to upright RGB, resized for an encoder, cut into tiles, restored."""
