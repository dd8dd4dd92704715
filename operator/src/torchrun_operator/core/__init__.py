"""Decisions: pure functions of the job, its status, the observed cluster, and the time."""
