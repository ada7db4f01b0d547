"""`--report`: one HTML page a run, which opens from disk without a network."""
