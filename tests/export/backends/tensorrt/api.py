"""Print what TensorRT's bindings offer, as JSON: `python .../tensorrt/api.py FOLDER`.

FOLDER is made by `.ci/tensorrt_stubs`. A program of its own, since one process can hold only one
version of the bindings, and the stub libraries must be there before they are loaded.
"""

import ctypes
import importlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from tests.export.backends.tensorrt.names import argument_counts


def offered(folder: Path) -> dict[str, Any]:
    """Return `version`, and `names`: dotted name -> argument counts of each overload, or null."""
    for library in sorted((folder / "stubs").glob("*.so.*")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(folder / "site"))
    trt = importlib.import_module("tensorrt_bindings")
    names: dict[str, Any] = {}
    for name in dir(trt):
        _add(names, name, getattr(trt, name))
        if isinstance(getattr(trt, name), type):
            for inner in dir(getattr(trt, name)):
                _add(names, f"{name}.{inner}", getattr(getattr(trt, name), inner))
    return {"version": trt.__version__, "names": names}


def _add(names: dict[str, Any], name: str, value: Any) -> None:
    function = vars(value).get("__init__") if isinstance(value, type) else value
    names[name] = argument_counts(function) if callable(function) else None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(offered(Path(sys.argv[1]))))
