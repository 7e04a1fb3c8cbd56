"""Latency of several processes, made one."""

import json
from dataclasses import replace

import pytest

from benchmarks.latency import BenchmarkConfig, Timing, latency
from benchmarks.opening import EngineSettings
from benchmarks.repeats import Request, measure_repeatedly, merge
from benchmarks.run import main
from export.errors import DataError
from tests.benchmarks.test_run import write_model

WATCH = {
    "ranges": {"cpu_mhz": [2000.0, 2100.0]},
    "gpu": "none",
    "energy_mj_per_picture": 10.0,
    "own_cpu_s": 1.0,
    "others_share": 0.1,
    "blocks": 2,
}


def timing(engine: list[list[float]], end_to_end: list[list[float]], verdict="valid") -> Timing:
    return Timing(
        model=None,
        model_scope="the same",
        engine=latency(engine),
        end_to_end=latency(end_to_end),
        device="cpu",
        watch=WATCH,
        verdict=verdict,
        batch=1,
        load=(0.1, 0.2),
        images=1,
        score_threshold=0.25,
        engine_blocks=tuple(map(tuple, engine)),
        end_to_end_blocks=tuple(map(tuple, end_to_end)),
    )


def level(*milliseconds: float) -> list[list[float]]:
    """Two blocks, each of the same calls."""
    return [list(milliseconds), list(milliseconds)]


def test_the_median_is_that_of_the_processes_and_their_spread_is_told():
    # Of all nine different calls the median is 10: 1, 1, 1, 10, 10, 11, 11, 12, 12.
    runs = [level(1, 10, 10), level(1, 11, 11), level(1, 12, 12)]
    found = merge([timing(run, run) for run in runs])
    assert found.engine.p50_ms == 11
    assert (found.engine.min_ms, found.engine.n) == (1, 18)
    assert found.engine.ci95_p50 == (11, 11)  # blocks within a process are alike
    assert found.repeats is not None
    assert found.repeats["processes"] == 3
    assert found.repeats["p50"]["engine"] == [10, 11, 12]
    assert found.repeats["spread"]["engine"] == pytest.approx(2 / 11)
    assert found.verdict == "valid"
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_interval_is_of_the_blocks_within():
    # One process wavers between 4 and 6, the others stay at 5: their median can only be 5, except
    # that two waverers can push it.
    wavering = [[4.0], [6.0]] * 4
    steady = [[5.0]] * 8
    one = merge([timing(steady, steady), timing(wavering, wavering), timing(steady, steady)])
    assert one.engine.ci95_p50 == (5, 5)
    two = merge([timing(wavering, wavering), timing(wavering, wavering), timing(steady, steady)])
    assert two.engine.ci95_p50[0] < 5 < two.engine.ci95_p50[1]


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
    cooler = {**WATCH, "ranges": {"cpu_mhz": [1500.0, 1600.0]}, "energy_mj_per_picture": 20.0}
    found = merge([run, replace(run, watch=cooler, load=(0.3, 0.4))])
    assert found.watch["ranges"] == {"cpu_mhz": [1500, 2100]}
    assert found.watch["energy_mj_per_picture"] == 15
    assert (found.watch["own_cpu_s"], found.watch["blocks"]) == (2, 4)
    assert found.load == (0.1, 0.4)


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


def test_a_process_that_fails_says_why_once(tmp_path):
    model = write_model(tmp_path / "student.onnx")
    request = Request(
        models=(model,),
        data=tmp_path / "gone.json",
        images=None,
        settings=EngineSettings(threads=1),
        config=BenchmarkConfig(),
    )
    with pytest.raises(DataError, match=r"a process that measured latency ended: .*gone\.json"):
        measure_repeatedly(request, 2)
