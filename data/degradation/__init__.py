"""Synthetic degradation: makes a low-quality clip from a sharp one, as cameras, networks and encoders do."""
