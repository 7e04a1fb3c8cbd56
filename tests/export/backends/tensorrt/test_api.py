"""Every name and call of TensorRT's and CUDA's APIs that is used exists in the real bindings.

`.ci/tensorrt_stubs` prepares the bindings of 11 and of 10.3, without the libraries behind them.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from export.backends.tensorrt.cuda import CudaDevice
from export.errors import ExportError
from tests.export.backends.tensorrt import fake_tensorrt, fake_tensorrt_engine
from tests.export.backends.tensorrt.fake_cuda import FakeCuda
from tests.export.backends.tensorrt.names import Use, argument_counts, cuda_uses, tensorrt_uses

ROOT = Path(__file__).resolve().parents[4]
PREPARED = ROOT / "build" / "tensorrt-api"
EVERY_MODULES = frozenset(vars(ModuleType("any")))  # names that every Python module has
# Names that one major version lacks; the sources ask before they use them.
ONLY_IN = {
    "10": {"BuilderFlag.FP16", "BuilderFlag.INT8", "BuilderFlag.FP8"},
    "11": {"HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY"},
}


@pytest.fixture(scope="module", params=["11", "10"])
def api(request: pytest.FixtureRequest) -> Any:
    folder = PREPARED / request.param
    if not (folder / "site" / "tensorrt_bindings").is_dir():
        pytest.skip(f"no bindings of TensorRT {request.param}: run .ci/tensorrt_stubs (needs gcc)")
    script = Path(__file__).with_name("api.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"].startswith(f"{request.param}.")
    return SimpleNamespace(major=request.param, **found)


def absent(use: Use, major: str) -> bool:
    """Whether the sources know that this version lacks the name."""
    return any(use.name in names for other, names in ONLY_IN.items() if other != major)


def dotted(use: Use) -> str:
    return f"{use.owner}.{use.name}" if use.owner else use.name


def test_the_sources_use_the_api_as_it_is(api):
    wrong = []
    for use in tensorrt_uses():
        name = dotted(use)
        if absent(use, api.major):
            assert name not in api.names, f"{name} is in TensorRT {api.version} after all"
            continue
        if "__members__" in name:
            name = name.rpartition(".")[0]
        if name not in api.names:
            wrong.append(f"{use.place}: TensorRT {api.version} has no {name}")
        elif use.arguments is not None and "__init__" not in name:
            counts = api.names[name]
            if counts and not any(low <= use.arguments <= high for low, high in counts):
                wrong.append(f"{use.place}: {name} takes {counts} arguments, not {use.arguments}")
    assert not wrong, "\n".join(wrong)


def test_the_signatures_are_really_read(api):
    """Else the test above would pass on silence."""
    assert api.names["IBuilderConfig.set_timing_cache"] == [[2, 2]]
    assert api.names["OnnxParser.parse"] == [[1, 2]]
    assert [1, 1] in api.names["Runtime.deserialize_cuda_engine"]
    assert "IBuilderConfig.int8_calibrator" not in api.names or api.major == "10"


def test_the_fake_has_no_name_that_the_real_one_lacks(api):
    module = fake_tensorrt.make(api.version, FakeCuda())
    classes: dict[str, type[Any]] = {
        "Builder": fake_tensorrt.Builder,
        "INetworkDefinition": fake_tensorrt.Network,
        "IBuilderConfig": fake_tensorrt.BuilderConfig,
        "IOptimizationProfile": fake_tensorrt.Profile,
        "ITimingCache": fake_tensorrt.TimingCache,
        "IHostMemory": fake_tensorrt.HostMemory,
        "OnnxParser": fake_tensorrt.OnnxParser,
        "Runtime": fake_tensorrt_engine.Runtime,
        "ICudaEngine": fake_tensorrt_engine.Engine,
        "IExecutionContext": fake_tensorrt_engine.Context,
        "EngineInspector": fake_tensorrt_engine.Inspector,
        "IProfiler": fake_tensorrt_engine.Profiler,
    }
    offered = {name: value for name, value in vars(module).items() if name not in EVERY_MODULES}
    claimed = set(offered)
    for name, value in offered.items():
        claimed |= {f"{name}.{member}" for member in getattr(value, "__members__", ())}
    for name, fake in classes.items():
        settable: frozenset[str] = getattr(fake, "_settable", frozenset())
        own = {member for member in dir(fake) if not member.startswith("_")}
        claimed |= {f"{name}.{member}" for member in own | settable}
    assert claimed - api.names.keys() == set()


def test_the_fake_itself_is_strict():
    module = fake_tensorrt.make("11.4.0", FakeCuda())
    with pytest.raises(AssertionError):
        module.Builder(SimpleNamespace())
    with pytest.raises(AttributeError):
        _ = module.BuilderFlag.FP16
    config = fake_tensorrt.BuilderConfig(module)
    with pytest.raises(AttributeError, match="int8_calibrator"):
        config.int8_calibrator = None


@pytest.mark.slow
def test_what_is_used_is_found_in_the_sources():
    """The extraction sees module names, methods of annotated objects, and their arguments."""
    uses = {(dotted(use), use.arguments) for use in tensorrt_uses()}
    assert ("BuilderFlag.TF32", None) in uses
    assert ("IExecutionContext.execute_async_v3", 1) in uses
    assert ("ITimingCache.serialize", 0) in uses
    assert len(uses) > 50


def test_the_cuda_runtime_is_used_as_it_is():
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    wrong = []
    for use in cuda_uses():
        value: Any = cuda
        for part in use.name.split("."):
            value = getattr(value, part, None)
        if value is None:
            wrong.append(f"{use.place}: cuda-python has no {use.name}")
        elif use.arguments is not None:
            counts = argument_counts(value)
            if counts and not any(low <= use.arguments <= high for low, high in counts):
                wrong.append(f"{use.place}: {use.name} takes {counts}, not {use.arguments}")
    assert not wrong, "\n".join(wrong)


def test_the_cuda_runtime_reports_that_there_is_no_gpu():
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if int(cuda.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ExportError, match=r"CUDA failed while looking for a GPU: .*driver"):
        CudaDevice(cuda)
