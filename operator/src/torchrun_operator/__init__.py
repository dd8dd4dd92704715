"""The Kubernetes operator for elastic torchrun jobs."""
