"""A real Kubernetes on one Linux computer, without Docker. See docs/local-cluster.md."""
