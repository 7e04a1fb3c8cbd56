"""Check what works on this machine, with advice: `python -m compress.doctor [PATH...]`.

PATH is a recipe or a dataset folder, whose data is checked; or an engine or a bundle, which is
checked against this machine.
"""

import argparse
import importlib.util
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from export.arguments import Parser, json_option, run_command, say, some_path
from export.atomic import free_bytes, require_writable
from export.errors import DataError, MissingDependencyError, ToolkitError, counted

# A run writes a twentieth to a quarter of a GB for a detector of 1 to 10 M weights: 0.10 GB for the
# quickstart, 0.26 for the training of a YOLO11s. Larger ones, more seeds and stored outputs of a
# teacher take several.
LEAST_FREE_GB, AMPLE_FREE_GB = 1.0, 5.0
_FOLDER_SIDE = 640  # input size assumed for a folder without a recipe
State = Literal["ok", "note", "absent", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line of the output.

    Attributes:
        what: name of what was checked.
        state: ok; note: works, but deserves attention; absent: optional and not installed; bad:
            required, or named on the command line, and does not work.
        said: what was found, and what to do about it.
        code: exit code of the command if the state is bad.
    """

    what: str
    state: State
    said: str
    code: int = 1


def main(arguments: Sequence[str] | None = None, prog: str = "python -m compress.doctor") -> int:
    """Run the command line; return its exit code."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: _doctor(options))


def _doctor(options: argparse.Namespace) -> int:
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        if not options.json:
            say(f"{finding.state:>6}  {finding.what}: {finding.said}")

    for look in (python, torch, onnxruntime_cpu, onnxruntime_cuda, onnxruntime_tensorrt):
        report(look())
    report(tensorrt())
    report(model_optimizer())
    report(ultralytics())
    report(disk(options.runs))
    for path in options.paths:
        for finding in named(path, options.runs):
            report(finding)
    bad = [finding for finding in findings if finding.state == "bad"]
    code = bad[0].code if bad else 0
    if options.json:
        listed = [asdict(finding) for finding in findings]
        print(json.dumps({"exit_code": code, "findings": listed}))
    elif bad:
        sys.stdout.flush()
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        say(f"error: {bad[0].what}: {bad[0].said}{more}", sys.stderr)
    return code


def python() -> Finding:
    """Check the interpreter and this package."""
    found, version = platform.python_version(), sys.version_info[:2]
    try:
        own = metadata.version("slimdet")
    except metadata.PackageNotFoundError:
        own = "not installed, run from its folder"
    if not (3, 10) <= version < (3, 14):
        return Finding("python", "bad", f"{found}; expected 3.10 to 3.13: use another interpreter")
    return Finding("python", "ok", f"{found} on {platform.platform()}; slimdet {own}")


def torch() -> Finding:
    """Check torch, torchvision and the GPU for training."""
    try:
        module = importlib.import_module("torch")
        importlib.import_module("torchvision")
    except ImportError as error:
        return Finding(
            "torch", "absent", f"not here ({error}); to train: pip install 'slimdet[train]'"
        )
    except Exception as error:  # a torchvision built for another torch fails in many ways
        return Finding(
            "torch", "bad", f"torch and torchvision are incompatible ({error}); reinstall both"
        )
    if module.cuda.is_available():
        names = [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
        bf16 = "with" if module.cuda.is_bf16_supported() else "without"
        return Finding(
            "torch", "ok", f"{module.__version__}, CUDA on {', '.join(names)}, {bf16} bf16"
        )
    if module.version.cuda is None:
        return Finding("torch", "ok", f"{module.__version__}, no CUDA support: trains on the CPU")
    return Finding(
        "torch",
        "ok",
        f"{module.__version__} for CUDA {module.version.cuda}, which finds no GPU or no driver "
        "for it (nvidia-smi): trains on the CPU",
    )


def onnxruntime_cpu() -> Finding:
    """Check ONNX Runtime, which every report needs."""
    from export.backends.onnxruntime.providers import why_unusable

    try:
        runtime = importlib.import_module("onnxruntime")
        reason = why_unusable(runtime, "cpu")
    except ImportError as error:
        return Finding(
            "onnxruntime cpu",
            "absent",
            f"not here ({error}); to run models: pip install 'slimdet[onnxruntime]'",
        )
    if reason is not None:
        return Finding("onnxruntime cpu", "bad", f"{reason}; reinstall onnxruntime", 6)
    return Finding("onnxruntime cpu", "ok", f"{runtime.__version__}")


def onnxruntime_cuda() -> Finding:
    """Check the CUDA provider by running a model of one node."""
    return _provider("cuda", "install onnxruntime-gpu, CUDA and cuDNN of the version it names")


def onnxruntime_tensorrt() -> Finding:
    """Check the TensorRT provider by running a model of one node."""
    return _provider("tensorrt", "install onnxruntime-gpu and the TensorRT libraries it names")


def _provider(device: Literal["cuda", "tensorrt"], advice: str) -> Finding:
    from export.backends.onnxruntime.devices import PROVIDERS
    from export.backends.onnxruntime.providers import why_unusable

    what = f"onnxruntime {device}"
    try:
        reason = why_unusable(importlib.import_module("onnxruntime"), device)
    except ImportError:
        return Finding(what, "absent", "onnxruntime is not here")
    if reason is not None:
        return Finding(what, "absent", f"{reason}; where the machine has a GPU: {advice}")
    return Finding(what, "ok", f"{PROVIDERS[device]} runs")


def tensorrt() -> Finding:
    """Check TensorRT with cuda-python and a GPU."""
    from export.backends.tensorrt.cuda import describe_machine, load_cuda
    from export.backends.tensorrt.library import load_tensorrt

    try:
        trt = load_tensorrt("Building and running engines")
        here = describe_machine(load_cuda(), trt.__version__)
    except MissingDependencyError as error:
        return Finding("tensorrt", "absent", str(error))
    except ToolkitError as error:
        return Finding("tensorrt", "absent", f"{trt.__version__} is here; {error}")
    return Finding("tensorrt", "ok", f"{here}, CUDA {here.cuda}, driver {here.driver}")


def model_optimizer() -> Finding:
    """Check Model Optimizer, which makes FP8 graphs; only a GPU runs those fast."""
    from export.precision.model_optimizer import require_model_optimizer

    try:
        version = require_model_optimizer()
    except MissingDependencyError as error:
        return Finding("model optimizer", "absent", str(error))
    return Finding(
        "model optimizer", "ok", f"{version}, makes fp8 graphs; their engines need SM 8.9 or later"
    )


def ultralytics() -> Finding:
    """Check the package that detectors of type yolo and rtdetr are made of; does not import it."""
    if importlib.util.find_spec("torch") is None:
        return Finding("ultralytics", "absent", "needs torch: pip install 'slimdet[yolo]'")
    from compress.detectors.ultralytics_parts.installed import find_installed

    try:
        here = find_installed()
    except MissingDependencyError as error:
        return Finding("ultralytics", "absent", str(error))
    said = f"{here.licence}, for detectors of type yolo and rtdetr: see docs/licence.md"
    return Finding("ultralytics", "ok", said)


def disk(runs: Path) -> Finding:
    """Check that run folders can be written, and the free disk space for them."""
    try:
        require_writable(runs, "--runs")
    except ToolkitError as error:
        return Finding("disk", "bad", str(error), error.exit_code)
    return disk_space(free_bytes(runs) / 1e9, runs)


def disk_space(free_gb: float, runs: Path) -> Finding:
    """Judge the free space, in GB, of the disk of the run folders."""
    said = f"{free_gb:.1f} GB free for {runs}"
    advice = "make room, or give --runs a folder on another disk"
    if free_gb < LEAST_FREE_GB:
        return Finding("disk", "bad", f"{said}, too little for a run; {advice}")
    if free_gb < AMPLE_FREE_GB:
        few = "enough for a small run; for large models, several seeds or stored outputs"
        return Finding("disk", "note", f"{said}, {few}: {advice}")
    return Finding("disk", "ok", said)


def named(path: Path, runs: Path) -> list[Finding]:
    """Check a path that was named on the command line."""
    if not path.exists():
        return [Finding(str(path), "bad", "no such file or folder", DataError.exit_code)]
    look: Callable[[Path], list[Finding]]
    if (path / "bundle.json").is_file():
        look = partial(bundle, runs=runs)
    elif path.suffix in {".yaml", ".yml"} or path.is_dir():
        look = partial(data, runs=runs)
    elif path.suffix in {".onnx", ".engine"}:
        look = engine
    else:
        expected = "a recipe (.yaml), a dataset folder, a model (.onnx, .engine) or a bundle"
        return [Finding(str(path), "bad", f"expected {expected}")]
    try:
        return look(path)
    except ToolkitError as error:
        return [Finding(str(path), "bad", str(error), error.exit_code)]


def data(path: Path, runs: Path) -> list[Finding]:
    """Check the data of a recipe or a dataset folder: decode every picture, then inspect it."""
    if importlib.util.find_spec("torch") is None:
        return [Finding(str(path), "bad", "checking data needs torch; see above", 4)]
    from benchmarks.data.inspection import PictureCache
    from compress.console import Console
    from compress.data.config import FolderConfig
    from compress.data.health import data_health, teacher_lines
    from compress.data.pictures import look_at_pictures
    from compress.recipe import load_recipe
    from compress.stages.opened import open_data, open_teachers, own_data

    most = 100  # default of a recipe without it
    others = {}
    if path.is_dir():
        opened = FolderConfig(root=path, image_size=_FOLDER_SIDE).open()
    else:
        recipe, source = load_recipe(path)
        opened, most = open_data(recipe.data, source, "data"), recipe.export.max_detections
        others = own_data(recipe, open_teachers(recipe, opened, source))
    look_at_pictures([opened, *others.values()], PictureCache(runs), Console(), decode=True)
    health = data_health(opened, most, others)
    counts = ", ".join(
        f"{role} {counted(split.images, 'picture')} with {counted(split.boxes, 'box', 'boxes')}"
        for role, split in health.splits.items()
    )
    head = f"{opened.format}, {counted(len(opened.classes), 'class', 'classes')}; {counts}"
    found = [Finding(str(path), "ok", head)]
    notes = [f"{role}: {note}" for role, split in health.splits.items() for note in split.notes]
    found += [Finding(str(path), "note", text) for text in (*health.warnings, *notes)]
    for name, own in others.items():
        found += [Finding(f"{path}, {name}", "note", line.strip()) for line in teacher_lines(own)]
    return found


def engine(path: Path) -> list[Finding]:
    """Check that an engine runs on this machine, or that an ONNX file matches its sidecar."""
    from export.artifact.int8_range import saturation_at
    from export.artifact.machine import cautions, differences
    from export.artifact.manifest import read_manifest
    from export.artifact.sidecar import verify_artifact
    from export.backends.tensorrt.cuda import describe_machine, load_cuda
    from export.backends.tensorrt.engine import rebuild_command, refuse_other_machine
    from export.backends.tensorrt.library import load_tensorrt
    from export.engine import open_engine

    manifest = read_manifest(path.with_suffix(".json"))
    verify_artifact(path, manifest)
    record = manifest.engine
    if record is None:
        with open_engine(path, threads=1):
            pass  # the runtime takes the graph, which has the sidecar's inputs and outputs
        caution = saturation_at(path, "cpu")
        if caution is not None:
            return [Finding(str(path), "note", f"opens here; {caution}")]
        return [Finding(str(path), "ok", f"{manifest.backend} {manifest.precision}, opens here")]
    trt = load_tensorrt(f"Comparing {path} with this machine")
    here = describe_machine(load_cuda(), trt.__version__)
    if differences(record, here):
        refuse_other_machine(path, manifest.precision, record, here)
    said = f"{manifest.precision} engine, runs here"
    slower = cautions(record, here)
    if not slower:
        return [Finding(str(path), "ok", said)]
    command = rebuild_command(record, manifest.precision)
    return [Finding(str(path), "note", f"{said}; built on {' and '.join(slower)}: {command}")]


def bundle(path: Path, runs: Path) -> list[Finding]:
    """Check that a bundle's files are intact and its engines fit this machine."""
    from export.artifact.bundle_agreement import check_agreement
    from export.artifact.bundle_content import BundleError, read_bundle
    from export.artifact.bundle_files import check_unlisted, warning_of
    from export.artifact.int8_range import saturation_at
    from export.verify import built_files, load_sessions

    try:
        content = read_bundle(path)
        strays = check_unlisted(path, content["files"], built_files(load_sessions([])))
        check_agreement(path, content)
    except BundleError as error:
        return [Finding(str(path), "bad", str(error), 6)]
    count = len(content["files"])
    found = [Finding(str(path), "ok", f"bundle of {counted(count, 'file')}, all intact")]
    if strays:
        found.append(Finding(str(path), "note", warning_of(strays)))
    for artifact in content["artifacts"]:
        if artifact.get("built_on") is not None:  # it depends on the machine
            found += named(path / artifact["file"], runs)
        caution = saturation_at(path / artifact["file"], "cpu")
        if caution is not None:
            found.append(Finding(str(path / artifact["file"]), "note", caution))
    return found


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog=prog,
        description="Check what works on this machine, and state what to do about what does not.",
        epilog="exit codes: 0 everything required works (optional parts may be absent), else "
        "that of the first bad line: 1 python, torch or disk, 2 recipe, 3 data, 4 a missing "
        "package, 6 an artifact",
    )
    parser.add_argument(
        "paths", type=some_path, nargs="*", metavar="PATH", help="recipe, dataset, engine or bundle"
    )
    parser.add_argument("--runs", type=some_path, default=Path("runs"), metavar="DIR")
    json_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
