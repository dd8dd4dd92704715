"""Checks a job without a cluster: the schema of the API server, then the rules of the operator. Pure."""
