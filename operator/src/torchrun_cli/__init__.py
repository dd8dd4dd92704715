"""The command line for people who run jobs: `kubectl torchrun`."""
