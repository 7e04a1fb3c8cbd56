"""Latency of several processes, made one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.data.image_set import read_coco
from benchmarks.run import main
from benchmarks.timing.latency import BenchmarkConfig, latency
from benchmarks.timing.records import Latencies, Timing, Watch
from benchmarks.timing.repeats import measure_repeatedly, merge, share_of_limit
from export.engine import open_engine
from export.errors import ExportError, ToolkitError
from tests.benchmarks.bright_boxes import BrightEngine
from tests.benchmarks.test_run import write_model

ROOT = Path(__file__).resolve().parents[3]
WATCH = Watch(
    ranges={"cpu_mhz": (2000.0, 2100.0)},
    gpu="none",
    energy_mj_per_picture=10.0,
    own_cpu_s=1.0,
    others_share=0.1,
    blocks=2,
)


def timing(engine, end_to_end, verdict="valid", watch=WATCH, load=(0.1, 0.2)) -> Timing:
    latencies = Latencies(
        model_scope="the same",
        engine=latency(engine),
        end_to_end=latency(end_to_end),
        batch=1,
        device="cpu",
        load_average=load,
        watch=watch,
    )
    return Timing(
        latency_ms=latencies,
        verdict=verdict,
        engine_blocks=engine,
        end_to_end_blocks=end_to_end,
    )


def level(*milliseconds: float) -> list[list[float]]:
    """Two blocks, each of the same calls."""
    return [list(milliseconds), list(milliseconds)]


def test_the_median_of_the_processes_and_their_spread_are_shown():
    # Of all nine different calls the median is 10: 1, 1, 1, 10, 10, 11, 11, 12, 12.
    runs = [level(1, 10, 10), level(1, 11, 11), level(1, 12, 12)]
    found = merge([timing(run, run) for run in runs])
    assert found.latency_ms.engine.p50 == 11
    assert (found.latency_ms.engine.min, found.latency_ms.engine.n) == (1, 18)
    assert found.latency_ms.engine.ci95_p50 == (11, 11)  # blocks within a process are alike
    assert found.latency_ms.repeats is not None
    assert found.latency_ms.repeats.processes == 3
    assert found.latency_ms.repeats.p50["engine"] == (10, 11, 12)
    assert found.latency_ms.repeats.spread["engine"] == pytest.approx(2 / 11)
    assert found.verdict == "valid"
    assert Timing.model_validate_json(found.model_dump_json()) == found


def test_the_interval_is_of_the_blocks_within():
    # One process wavers between 4 and 6, the others stay at 5: their median can only be 5, except
    # that two waverers can push it.
    wavering = [[4.0], [6.0]] * 4
    steady = [[5.0]] * 8
    one = merge([timing(steady, steady), timing(wavering, wavering), timing(steady, steady)])
    assert one.latency_ms.engine.ci95_p50 == (5, 5)
    two = merge([timing(wavering, wavering), timing(wavering, wavering), timing(steady, steady)])
    assert two.latency_ms.engine.ci95_p50[0] < 5 < two.latency_ms.engine.ci95_p50[1]


def test_processes_that_lie_apart_are_noisy_and_doubts_are_kept():
    slow, quick = level(20), level(10)
    apart = merge([timing(quick, slow), timing(slow, slow), timing(slow, slow)])
    assert apart.verdict == "noisy: engine medians of the processes spread 50%"
    hot = merge([timing(slow, slow), timing(slow, slow, "throttled: heat"), timing(slow, slow)])
    assert hot.verdict == "throttled: heat"
    same = [timing(slow, slow, "noisy: load; others")] * 2
    assert merge(same).verdict == "noisy: load; others"


def test_what_the_machine_did_is_told_of_all_processes():
    run = timing(level(1), level(1))
    cooler = WATCH.model_copy(
        update={"ranges": {"cpu_mhz": (1500.0, 1600.0)}, "energy_mj_per_picture": 20.0}
    )
    found = merge([run, timing(level(1), level(1), watch=cooler, load=(0.3, 0.4))])
    watch = found.latency_ms.watch
    assert watch is not None
    assert watch.ranges == {"cpu_mhz": (1500, 2100)}
    assert watch.energy_mj_per_picture == 15
    assert (watch.own_cpu_s, watch.blocks) == (2, 4)
    assert found.latency_ms.load_average == (0.1, 0.4)


@pytest.mark.slow
def test_a_model_is_measured_in_fresh_processes(tmp_path, data, capsys):
    model = write_model(tmp_path / "student.onnx")
    arguments = [str(model), "--data", str(data), "--threads", "1", "--repeats", "2", "--json"]
    assert main([*arguments, "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out.splitlines()[-1])["rows"]
    repeats = row["latency_ms"]["repeats"]
    assert repeats["processes"] == 2
    assert set(repeats["p50"]) == {"engine", "end_to_end"}
    assert row["latency_ms"]["engine"]["n"] == 400
    assert "p50 is the median of 2 processes" in printed.out
    assert "p50 is the median of 2 processes" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
def test_a_failing_process_prints_its_reason_once(data):
    images, config = read_coco(data), BenchmarkConfig(repeats=2)
    missing = partial(open_engine, data.parent / "gone.onnx")
    heard: list[str] = []
    with pytest.raises(ExportError, match=r"gone\.onnx"):
        measure_repeatedly({"gone": missing}, images, config, heard.append)
    assert heard == ["latency in process 1 of 2"]


@pytest.mark.slow
def test_a_process_that_dies_is_said_to_have_died(data):
    dies = partial(os._exit, 9)  # as one that the system killed for memory: nothing is answered
    with pytest.raises(ToolkitError, match=r"died \(exit code 9\); .* set repeats to 1"):
        measure_repeatedly({"dies": dies}, read_coco(data), BenchmarkConfig(), print)


def _names_blocked_signals() -> BrightEngine:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    raise ToolkitError(" ".join(sorted(number.name for number in map(signal.Signals, blocked))))


@pytest.mark.slow
def test_signals_to_all_processes_are_left_to_the_one_that_asks(data):
    openers = {"one": _names_blocked_signals}
    with pytest.raises(ToolkitError, match="SIGHUP SIGINT SIGTERM"):
        measure_repeatedly(openers, read_coco(data), BenchmarkConfig(repeats=2), print)


def test_the_time_limit_is_divided_by_the_processes():
    whole = BenchmarkConfig(repeats=4, time_limit_s=60)
    assert share_of_limit(whole) == BenchmarkConfig(repeats=4, time_limit_s=15)
    unlimited = BenchmarkConfig(repeats=4, time_limit_s=None)
    assert share_of_limit(unlimited) == unlimited


@pytest.mark.slow
def test_each_process_measures_within_its_share_of_the_time_limit(data):
    # A call sleeps 20 ms or longer. With half of 2 s and 2 blocks a process can afford no more than
    # 1 / (2 * 2 * 0.02) = 12 calls per block and scope; with all 2 s it could afford 25.
    tight = BenchmarkConfig(repeats=2, blocks=2, calls_per_block=10**5, warmup=1, time_limit_s=2)
    opener = partial(BrightEngine, delay_ms=20)
    timing = measure_repeatedly({"student": opener}, read_coco(data), tight, print)["student"]
    assert timing.latency_ms.repeats is not None
    assert timing.latency_ms.repeats.processes == 2
    assert [len(block) <= 12 for block in timing.engine_blocks] == [True] * 4


ASKING = """
import subprocess
from functools import partial
from pathlib import Path

from benchmarks.data.image_set import read_coco
from benchmarks.timing.latency import BenchmarkConfig
from benchmarks.timing.repeats import measure_repeatedly

if __name__ == "__main__":
    told = "echo $PPID $$ > {pid}.part; mv {pid}.part {pid}; exec sleep 600"
    slow = partial(subprocess.run, ["sh", "-c", told])
    measure_repeatedly({{"slow": slow}}, read_coco(Path("{data}")), BenchmarkConfig(), print)
"""


@pytest.mark.slow
def test_a_process_does_not_outlive_the_one_that_asked(tmp_path, data):
    script, pid = tmp_path / "ask.py", tmp_path / "pid"
    script.write_text(ASKING.format(pid=pid, data=data))
    with subprocess.Popen(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as asking:
        wait_for(pid.exists)
        asking.kill()
    measuring, sleeping = map(int, pid.read_text().split())
    try:
        wait_for(lambda: not running(measuring))
    finally:
        os.kill(sleeping, signal.SIGKILL)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(state: Callable[[], bool]) -> None:
    """Return when `state` holds; a state that never comes fails, after 2,400 looks."""
    for _ in range(2400):
        if state():
            return
        time.sleep(0.05)
    raise AssertionError("what was waited for never came")
