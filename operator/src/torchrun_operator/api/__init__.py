"""The TorchrunJob resource: models, names, conditions and rules. No I/O."""
