"""Watches of jobs, pods and Kubernetes nodes."""
