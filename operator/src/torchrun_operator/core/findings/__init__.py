"""Findings: what the facts mean for the job. Each value is computed once, in `find`. Pure."""
