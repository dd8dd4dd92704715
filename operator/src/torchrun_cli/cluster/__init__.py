"""The client of the API server: kubeconfig, credentials, HTTP, and what the commands read and write."""
