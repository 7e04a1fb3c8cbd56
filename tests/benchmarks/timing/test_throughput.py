import pytest

from benchmarks.timing.latency import BenchmarkConfig
from benchmarks.timing.throughput import sweep
from tests.benchmarks.bright_boxes import BrightEngine, bright_manifest, bright_set


def test_every_batch_is_measured_where_the_graph_takes_it(clock):
    engines = {
        "dynamic": BrightEngine(delay_ms=4, sleep=clock.sleep),
        "static": BrightEngine(bright_manifest(dynamic_batch=False), delay_ms=2, sleep=clock.sleep),
    }
    config = BenchmarkConfig(throughput_batches=(4, 1), throughput_s=0.02)
    found = sweep(engines, bright_set(), config)
    assert [entry.batch for entry in found["dynamic"]] == [1, 4]
    assert [entry.batch for entry in found["static"]] == [1]
    assert set(engines["static"].batches) == {1}
    for entry in found["dynamic"]:  # a call sleeps 4 ms, whatever the batch
        assert entry.call_ms == pytest.approx(4)
        assert entry.images_per_s == pytest.approx(250 * entry.batch)
        assert entry.n == 10  # five calls, the fewest, are more than 10 ms; twice


def test_no_batches_mean_no_experiment():
    engine = BrightEngine()
    found = sweep({"only": engine}, bright_set(), BenchmarkConfig(throughput_batches=()))
    assert (found, engine.batches) == ({"only": []}, [])
