"""How a run stays within the memory of its device.

plan: what can be chosen, and the choice. predict: what a plan takes. budget: what there is. stages: a plan at work.
"""
