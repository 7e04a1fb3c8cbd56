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


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("flags : fpu avx2", True),
        ("flags : avx512f avx512_vnni", False),
        ("flags : avx_vnni", False),
        ("Features : fp asimd asimddp", False),
    ],
)
def test_only_x86_without_vnni_saturates(tmp_path, monkeypatch, flags, saturates):
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    assert cpu.int8_saturates() is saturates
