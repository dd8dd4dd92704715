"""Facts: what the API server, the rendezvous host and the logs say about a job, as frozen values. Pure."""
