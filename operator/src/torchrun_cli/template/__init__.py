"""From a user's manifest to a job: YAML, values, templates and local files.

Pure, but for `local.py`, which reads files, and `bounded.py`, which runs a template in a process of its own.
"""
