"""Policies: from findings to a plan. One file per policy; `chain` is the table of all of them. Pure."""
