"""The TorchrunJob resource: its models, names, conditions and rules, free of any I/O."""
