"""A real Kubernetes on one Linux machine, without Docker: see docs/local-cluster.md."""
