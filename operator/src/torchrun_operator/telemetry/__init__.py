"""Telemetry: metrics, log lines and health."""
