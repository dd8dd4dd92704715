"""Passes over jobs (read, find, plan, write, act, tell), and the queue of jobs that wait for a pass."""
