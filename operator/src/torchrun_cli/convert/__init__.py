"""Converts jobs of other systems to TorchrunJob manifests. Pure: text in, text out."""
