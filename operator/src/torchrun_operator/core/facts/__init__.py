"""Facts: the state of a job from the API server, the rendezvous host and the logs, as frozen values. Pure."""
