"""YUV planes to RGB and back, in integers: the same bits on every device, for 8 to 16 bits a sample."""
