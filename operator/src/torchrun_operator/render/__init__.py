"""From a job to the manifests of what it owns."""
