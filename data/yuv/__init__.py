"""Converts YUV planes of 8 to 16 bits per sample to RGB and back, in integers, with the same bits on every device."""
