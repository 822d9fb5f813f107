"""Encoders: frozen networks behind one protocol."""
