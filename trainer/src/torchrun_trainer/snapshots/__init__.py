"""Snapshots of a run: where they lie, what they hold, who writes them, and how they are restored."""
