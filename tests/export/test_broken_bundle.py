"""A bundle with NaN in its weights is refused; so is, in one line, a machine without numpy."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export import verify
from export.bundles.packing import write_bundle
from tests.export.test_engine import with_weights
from tests.export.tiny import canvases


@pytest.mark.slow
@pytest.mark.parametrize("copy", [False, True], ids=["of the package", "of the bundle"])
def test_broken_weights_are_named(static_model, capsys, tmp_path, copy):
    picture = canvases(1)[0]
    bundle = write_bundle(tmp_path / "b", [static_model], picture, name="tiny", threads=1)
    found = json.loads((bundle / "bundle.json").read_text())
    file = found["artifacts"][0]["file"]
    broken = with_weights(bundle / file, tmp_path / "broken", np.nan).read_bytes()
    (bundle / file).unlink()  # a hard link to the one in triton/
    (bundle / file).write_bytes(broken)
    sidecar = Path(file).with_suffix(".json").as_posix()
    told = json.loads((bundle / sidecar).read_text())
    told["sha256"] = found["files"][file] = hashlib.sha256(broken).hexdigest()
    (bundle / sidecar).unlink()  # as the model
    (bundle / sidecar).write_text(json.dumps(told))
    found["files"][sidecar] = hashlib.sha256((bundle / sidecar).read_bytes()).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(found))
    if copy:
        command = [sys.executable, "-I", "verify.py"]
        done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
        code, out = done.returncode, done.stdout + done.stderr
    else:
        code = verify.main([str(bundle)])
        out = "".join(capsys.readouterr())
    assert code == 6
    assert "holds NaN; the model is broken" in out


def test_without_numpy_a_bundle_says_what_to_install(static_model, tmp_path):
    """In an interpreter without any installed package; its help still works there."""
    bundle = write_bundle(tmp_path / "b", [static_model], canvases(1)[0], name="tiny", threads=1)
    command = [sys.executable, "-I", "-S", str(bundle / "verify.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == verify.MISSING_PACKAGE
    assert done.stderr.count("\n") == 1
    assert "pip install numpy" in done.stderr
    assert subprocess.run([*command, "--help"], capture_output=True, check=False).returncode == 0
