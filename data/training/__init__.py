"""What training reads: an index of files, pairs drawn by (seed, step, slot), shards of what was computed once."""
