"""Watches of jobs, pods and Kubernetes nodes behind one interface: cluster.watch.base.Watch."""
