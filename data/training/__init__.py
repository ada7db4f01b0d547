"""Training data: an index of files, pairs drawn by (seed, step, slot), and shards of precomputed samples."""
