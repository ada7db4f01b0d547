"""The training loop (skeleton): it drives any `Stage`."""
