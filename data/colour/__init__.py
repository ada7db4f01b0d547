"""Light behind code values: the curves of HDR (PQ, HLG), and the form of it that networks of SDR take."""
