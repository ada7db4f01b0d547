"""`--report`: writes one HTML page per run, which opens from disk without network access."""
