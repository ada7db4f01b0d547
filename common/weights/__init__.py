"""Reads weight files in all supported layouts: `read.read_weights` returns names and values as in the release."""
