"""How fast training goes on after each kind of fault: jobs of this operator, PyTorchJobs, and torchrun pods by hand."""
