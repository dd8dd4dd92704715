"""What watches a running training: progress, tracking, slow ranks, hangs, and SIGTERM."""
