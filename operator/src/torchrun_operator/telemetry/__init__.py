"""What the operator says about itself: metrics and log lines."""
