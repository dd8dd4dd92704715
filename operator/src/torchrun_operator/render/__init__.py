"""Renders the manifests of everything that a job owns, from the job alone.

A feature is a part, one file in `parts`: its objects, what it adds to pods, and its validation. `catalog` lists the
parts. To add a feature, add a file there and an entry to that list.
"""
