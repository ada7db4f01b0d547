"""Transfer curves of HDR (PQ, HLG), and the SDR form of HDR pictures that the networks take."""
