"""The time that a process of a job may run without reporting progress. Command lines import it without torch."""

TIMEOUT_S = 1800.0
LONGEST_TIMEOUT_S = 365 * 24 * 3600  # PyTorch cannot count arbitrarily far
