"""Transfer curves of HDR (PQ, HLG), and the conversion of HDR pictures to the SDR that the networks take."""
