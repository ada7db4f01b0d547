"""How long a process of a job may be silent. In a file of its own, as a command line needs it and nothing of torch."""

TIMEOUT_S = 1800.0
