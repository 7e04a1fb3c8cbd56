import os

import pytest

from export.backends.onnxruntime import cpu


def test_there_is_a_core_and_not_more_than_processors():
    assert 1 <= cpu.usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinity on this system")
def test_hyper_threads_of_one_core_count_once(tmp_path, monkeypatch):
    for processor in os.sched_getaffinity(0):
        folder = tmp_path / f"cpu{processor}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text("0-255\n")
    monkeypatch.setattr(cpu, "_TOPOLOGY", tmp_path)
    assert cpu.usable_cores() == 1
