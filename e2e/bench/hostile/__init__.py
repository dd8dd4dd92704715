"""Twenty good jobs beside hostile ones, on a real API server: how long the operator takes to replace a dead pod."""
