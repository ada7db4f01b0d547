"""Synthetic low quality: from a sharp clip to what a bad camera, a bad network and a bad encoder leave of it."""
