"""The data of training: an index of files, pairs drawn by (seed, step, slot), shards of precomputed samples."""
