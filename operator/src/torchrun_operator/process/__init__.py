"""The operator process: wiring, supervision, health endpoints."""
