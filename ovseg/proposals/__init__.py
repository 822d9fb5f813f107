"""Where objects may be, before they have names: boxes, and what decides between them."""
