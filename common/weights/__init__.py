"""Checkpoints as people have them: `read.read_weights` gives any known layout the names and values of the release."""
