import gc
import json

import pytest
from pydantic import ValidationError

from benchmarks.timing.latency import BenchmarkConfig, latency, measure, ratio_ci
from benchmarks.timing.load import LoadWatch
from export.engine import detect
from export.errors import DataError, ExportError
from tests.benchmarks.bright_boxes import BrightEngine, bright_manifest, bright_set

SHORT = BenchmarkConfig(blocks=4, calls_per_block=5, warmup=2, images=3)


def test_percentiles_by_hand():
    # 1..100 ms: the median lies midway between 50 and 51; numpy's p90 is 1 + 0.9 * 99.
    found = latency([range(1, 51), range(51, 101)])
    assert (found.p50, found.min, found.mean, found.n) == (50.5, 1, 50.5, 100)
    assert found.p90 == pytest.approx(90.1)
    assert found.p99 == pytest.approx(99.01)
    assert not found.p99_reliable


def test_p99_is_reliable_from_500_calls():
    assert latency([[1.0] * 250, [2.0] * 250]).p99_reliable
    assert not latency([[1.0] * 250, [2.0] * 249]).p99_reliable


def test_an_outlier_stays_in():
    assert latency([[1.0, 1.0], [1.0, 97.0]]).mean == 25


def test_the_interval_comes_from_blocks_and_not_from_calls():
    # Within each block all calls are equal: only which blocks are drawn can move the median.
    assert latency([[5.0] * 25] * 8).ci95_p50 == (5, 5)
    low, high = latency([[4.0] * 25] * 4 + [[6.0] * 25] * 4).ci95_p50
    assert (low, high) == (4, 6)


def test_half_the_time_is_twice_as_fast():
    slow = [[8.0, 8.4], [8.2, 8.1], [7.9, 8.3]]
    found = ratio_ci(slow, [[time / 2 for time in block] for block in slow])
    assert found.ratio == pytest.approx(2)
    assert found.ci95 == pytest.approx((2, 2))
    assert found.verdict == "faster"


def test_a_slower_engine_is_called_slower():
    assert ratio_ci([[1.0], [1.1]], [[2.0], [2.1]]).verdict == "slower"


def test_an_interval_around_one_is_no_change():
    found = ratio_ci([[10.0], [11.0], [9.0]], [[11.0], [9.0], [10.0]])
    assert found.ci95[0] < 1 < found.ci95[1]
    assert found.verdict == "no change"


def test_both_scopes_of_every_engine_are_timed_as_often_as_asked(clock):
    engines = {
        "quick": BrightEngine(delay_ms=1, sleep=clock.sleep),
        "slow": BrightEngine(delay_ms=6, sleep=clock.sleep),
    }
    timings = measure(engines, bright_set(), SHORT)
    for timing in timings.values():
        assert [len(block) for block in timing.engine_blocks] == [5] * 4
        assert [len(block) for block in timing.end_to_end_blocks] == [5] * 4
        assert (timing.latency_ms.engine.n, timing.latency_ms.images, timing.latency_ms.batch) == (
            20,
            3,
            1,
        )
    assert timings["slow"].latency_ms.engine.min == timings["slow"].latency_ms.engine.p99 == 6
    assert timings["slow"].latency_ms.end_to_end.min == 6
    ratio = ratio_ci(timings["slow"].engine_blocks, timings["quick"].engine_blocks)
    assert (ratio.ratio, ratio.verdict) == (6, "faster")


def test_a_timing_fills_the_row_of_the_report():
    with BrightEngine() as engine:
        found = measure({"only": engine}, bright_set(), SHORT)["only"].latency_ms.model_dump(
            mode="json"
        )
    assert {"p50", "p90", "p99", "min", "n", "ci95_p50"} <= set(found["engine"])
    assert {"engine", "end_to_end", "batch"} <= set(found)
    json.dumps(found, allow_nan=False)


def test_blocks_go_there_and_back():
    turns: list[str] = []

    class Named(BrightEngine):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def candidates(self, images):
            turns.append(self.name)
            return super().candidates(images)

    config = BenchmarkConfig(blocks=4, calls_per_block=3, warmup=1, images=1)
    measure({"a": Named("a"), "b": Named("b")}, bright_set(), config)
    after_warm_up = turns[4:]
    blocks = [after_warm_up[start] for start in range(0, len(after_warm_up), 8)]
    assert blocks == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_a_time_limit_reduces_the_recorded_number_of_calls(clock):
    engine = BrightEngine(delay_ms=10, sleep=clock.sleep)
    config = BenchmarkConfig(blocks=2, calls_per_block=500, warmup=3, time_limit_s=0.4)
    timing = measure({"slow": engine}, bright_set(), config)["slow"]
    # (0.4 - warm-up 0.06) s / 2 blocks / 20 ms for both scopes: 8 calls a block.
    assert timing.latency_ms.engine.n == 16


def test_garbage_is_collected_between_blocks_and_never_inside():
    inside: list[bool] = []

    class Watching(BrightEngine):
        def candidates(self, images):
            inside.append(gc.isenabled())
            return super().candidates(images)

    measure({"only": Watching()}, bright_set(), SHORT)
    assert not any(inside)
    assert gc.isenabled()


def test_a_batch_is_timed_whole():
    engine = BrightEngine()
    config = BenchmarkConfig(blocks=2, calls_per_block=2, warmup=1, images=3, batch=2)
    timing = measure({"only": engine}, bright_set(), config)["only"]
    assert set(engine.batches) == {2}
    assert timing.latency_ms.batch == 2


def test_a_static_graph_refuses_a_batch():
    engine = BrightEngine(bright_manifest(dynamic_batch=False))
    with pytest.raises(ExportError, match="one picture per call"):
        measure({"only": engine}, bright_set(), BenchmarkConfig(batch=2))


def test_an_empty_set_is_refused():
    with pytest.raises(DataError, match="no picture to measure"):
        measure({"only": BrightEngine()}, bright_set(0), SHORT)


def test_an_engine_whose_blocks_differ_is_noisy(clock):
    class Tiring(BrightEngine):
        def candidates(self, images):
            self.delay_ms += 0.1
            return super().candidates(images)

    timing = measure({"only": Tiring(sleep=clock.sleep)}, bright_set(), SHORT)["only"]
    assert "engine block medians spread" in timing.verdict


def test_a_loaded_machine_is_named_as_the_reason():
    watch = LoadWatch.start()
    watch.load_before = 1000.0
    assert "load average up to" in watch.reasons()[0]


def test_end_to_end_ends_with_boxes_in_the_photograph():
    images = bright_set(2)
    assert images.draw is not None
    found = detect(BrightEngine(bright_manifest(side=32)), [images.draw(0), images.draw(1)], 0.25)
    assert found[0].boxes.tolist() == [[4, 6, 24, 30]]
    assert [int(one.labels[0]) for one in found] == [0, 1]


def test_one_block_could_not_have_an_interval():
    with pytest.raises(ValidationError, match="blocks"):
        BenchmarkConfig(blocks=1)


class DeviceBrightEngine(BrightEngine):
    """A device of which a copy takes 3 ms and a pass 1 ms."""

    device = "cuda"

    def candidates(self, images):
        self.upload(images)
        self.enqueue()
        self.synchronize()
        return super().candidates(images)

    def upload(self, images):
        self.resident = images
        self.sleep(3e-3)

    def enqueue(self):
        assert self.resident is not None
        self.sleep(1e-3)

    def synchronize(self):
        pass


def test_on_the_cpu_the_model_scope_is_the_one_with_copies():
    with BrightEngine() as engine:
        timing = measure({"only": engine}, bright_set(), SHORT)["only"]
    assert timing.latency_ms.model is None
    assert "on the CPU nothing is copied" in timing.latency_ms.model_scope
    assert timing.latency_ms.watch is not None
    assert timing.latency_ms.watch.gpu == "not watched: no engine here uses one"


def test_a_device_is_timed_with_and_without_copies_and_for_longer(clock):
    config = BenchmarkConfig(blocks=2, calls_per_block=5, warmup=1, images=3, time_limit_s=1)
    engine = DeviceBrightEngine(sleep=clock.sleep)
    timing = measure({"only": engine}, bright_set(), config)["only"]
    assert timing.latency_ms.model is not None
    assert (timing.latency_ms.model.min, timing.latency_ms.engine.min) == (1, 4)
    assert (
        timing.latency_ms.model.n == timing.latency_ms.engine.n > 10
    )  # more than asked: limited by time alone
    assert timing.latency_ms.model_scope.startswith("by the host's clock")


def test_a_device_with_its_own_clock_provides_the_times(clock):
    class Clocked(DeviceBrightEngine):
        clock = "a sundial"

        def pass_ms(self) -> float:
            self.enqueue()
            return 0.25

    config = BenchmarkConfig(blocks=2, calls_per_block=5, warmup=1, images=3, time_limit_s=1)
    timing = measure({"only": Clocked(sleep=clock.sleep)}, bright_set(), config)["only"]
    assert timing.latency_ms.model is not None
    assert timing.latency_ms.model.min == timing.latency_ms.model.p99 == 0.25
    assert timing.latency_ms.engine.min == 4  # of that the host's clock counts all
    assert timing.latency_ms.model_scope == "by a sundial around the pass"


def test_a_device_without_a_model_scope_is_reported(clock):
    class Closed(BrightEngine):
        device = "cuda"

    config = BenchmarkConfig(blocks=2, calls_per_block=2, warmup=1, images=1, time_limit_s=0.2)
    engine = Closed(delay_ms=1, sleep=clock.sleep)
    timing = measure({"only": engine}, bright_set(), config)["only"]
    assert timing.latency_ms.model is None
    assert timing.latency_ms.model_scope.startswith("not measured")


def test_the_quartiles_of_the_calls_are_shown():
    # 1..101 ms: quartiles at 26 and 76 exactly.
    found = latency([range(1, 102)])
    assert (found.p25, found.p75, found.iqr) == (26, 76, 50)
