"""Latency and throughput: clocks, interleaved blocks, the machine's load."""
