"""Measures the recovery from each kind of fault: jobs of this operator, PyTorchJobs, and torchrun pods by hand."""
