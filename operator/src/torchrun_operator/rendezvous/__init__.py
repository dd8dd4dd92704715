"""The rendezvous of a job: the program that drives torchrun's rounds beside the store, and the operator's client."""
