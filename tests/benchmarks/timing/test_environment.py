import json
import os
import subprocess
import sys

import pytest

from benchmarks.timing.environment import environment, usable_cores


@pytest.mark.slow
def test_the_machine_is_described_as_json():
    found = json.loads(json.dumps(environment(), allow_nan=False))
    assert found["packages"]["numpy"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"model", "physical_cores", "logical_cores", "affinity", "flags"} <= set(found["cpu"])
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.slow
def test_describing_the_machine_loads_no_heavy_package():
    script = (
        "import sys; from benchmarks.timing.environment import environment; environment(); "
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
