"""Measure what ships: accuracy, latency, and the report on both."""
