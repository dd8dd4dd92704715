"""The engine below every run: counts steps, has the ranks agree after each one, and reports."""
