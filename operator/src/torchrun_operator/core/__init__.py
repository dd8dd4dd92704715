"""Decisions: pure functions of the job, its status, what was observed, and the time."""
