"""Latency and throughput: interleaved blocks, clocks, load of the machine."""
