"""Keeps a run within the memory of its device.

plan: memory plans and their candidates.
predict: the memory that a plan needs.
budget: the memory that is available, and the choice of a plan.
stages: executes a plan.
"""
