"""Texts and tables about jobs, from the objects of the API server as plain dicts. Pure."""
