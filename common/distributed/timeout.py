"""How long a process of a job may run without a report. A separate file, so that command lines import no torch."""

TIMEOUT_S = 1800.0
