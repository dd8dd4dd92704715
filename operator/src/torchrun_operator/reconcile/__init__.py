"""One pass over a job: read, find, plan, write, act, tell; and the queue that gives the passes their turns."""
