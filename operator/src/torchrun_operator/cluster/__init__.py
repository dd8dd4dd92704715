"""The one way to the Kubernetes API: a port that says what the operator needs, and its adapter."""
