"""Faults at random instants, and what must be true afterwards."""
