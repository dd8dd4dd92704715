"""Access to the Kubernetes API: a port with what the operator needs, and its adapter."""
