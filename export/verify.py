"""Check a bundle on the device: every artifact must find what it found where the bundle was made.

`python -m export.verify BUNDLE`, or `python verify.py` inside of it: this file is part of every
bundle and needs numpy and the runtime (onnxruntime, or tensorrt and cuda-python) alone.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DONE, MISSING_PACKAGE, BROKEN = 0, 4, 6  # as in export/errors.py, which is not part of a bundle
MIN_IOU = 0.5
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
Outputs = dict[str, Any]  # boxes (B, P, 4), scores (B, P), labels (B, P), maybe more
Run = Callable[[Any], Outputs]


class BundleError(Exception):
    """Something about the bundle, or what it finds, is not as promised."""


class NotHereError(Exception):
    """This artifact cannot be checked on this machine, for want of a package."""


def main(arguments: Sequence[str] | None = None, prog: str = "verify") -> int:
    """Run the command line; return its exit code."""
    options = command_line(prog).parse_args(arguments)
    results = []
    try:
        bundle = read_bundle(options.bundle)
        for artifact in chosen(options.bundle, bundle, options.only):
            results.append(check(options.bundle, bundle, artifact, options.device))
            if not options.json:
                print(f"{results[-1]['result']:>7}  {results[-1]['name']}: {results[-1]['said']}")
    except BundleError as error:
        results.append({"name": str(options.bundle), "result": "error", "said": str(error)})
        if not options.json:
            print(f"error: {error}", file=sys.stderr)
    code = exit_code([result["result"] for result in results])
    if options.json:
        print(json.dumps({"exit_code": code, "results": results}))
    return code


def exit_code(results: Sequence[str]) -> int:
    """Return 6 where anything failed, 4 where nothing could be checked, else 0."""
    if any(result in ("failed", "error") for result in results):
        return BROKEN
    return DONE if "ok" in results else MISSING_PACKAGE


def read_bundle(folder: Path) -> dict[str, Any]:
    """Return the content of `bundle.json`, and make sure that every file is the one it lists.

    Raises:
        BundleError: naming the first file that is missing or differs.
    """
    try:
        bundle: dict[str, Any] = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{folder}: no bundle ({error}); name a folder that holds bundle.json"
        ) from None
    if bundle.get("schema") != 1:
        raise BundleError(f"{folder}: a bundle of schema {bundle.get('schema')}; expected 1")
    for name, expected in bundle["files"].items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError(
                f"{folder / name}: missing ({error.strerror}); unpack it again"
            ) from None
        if found != expected:
            raise BundleError(
                f"{folder / name}: damaged or changed (sha256 {found[:12]}…, the bundle lists "
                f"{expected[:12]}…); unpack it again"
            )
    return bundle


def chosen(folder: Path, bundle: dict[str, Any], only: str | None) -> list[dict[str, Any]]:
    """Return the artifacts to check; an engine built here beside an ONNX file is one more.

    Raises:
        BundleError: there is none of the name asked for.
    """
    found = []
    for artifact in bundle["artifacts"]:
        found.append(artifact)
        built = folder / Path(artifact["file"]).with_name("model.engine")
        if artifact["file"].endswith(".onnx") and built.is_file():
            name = built.relative_to(folder).as_posix()
            found.append({**artifact, "name": f"{artifact['name']} (engine built here)"})
            found[-1].update({"file": name, "backend": "tensorrt", "built_on": None})
    if only is not None:
        names = ", ".join(artifact["name"] for artifact in found)
        found = [artifact for artifact in found if artifact["name"] == only]
        if not found:
            raise BundleError(f"{folder}: holds no artifact {only!r}, but {names}")
    return found


def check(
    folder: Path, bundle: dict[str, Any], artifact: dict[str, Any], device: str
) -> dict[str, Any]:
    """Run one artifact on the golden picture; say `ok`, `failed` or `skipped`, and why."""
    picture = np.load(folder / bundle["golden"]["input"])  # (H, W, 3) uint8
    try:
        if artifact["backend"] == "tensorrt":
            run, batches, close = open_tensorrt(folder / artifact["file"], artifact)
        else:
            file, precision = folder / artifact["file"], artifact["precision"]
            run, batches, close = open_onnxruntime(file, device, precision)
        try:
            said = compare_runs(run, batches, picture, artifact)
        finally:
            close()
    except NotHereError as error:
        return {"name": artifact["name"], "result": "skipped", "said": str(error)}
    except BundleError as error:
        return {"name": artifact["name"], "result": "failed", "said": str(error)}
    return {"name": artifact["name"], "result": "ok", "said": said}


def compare_runs(run: Run, batches: tuple[int, int], picture: Any, artifact: dict[str, Any]) -> str:
    """Compare with what is expected: alone, once more, and at both ends of a batch.

    Raises:
        BundleError: what differs.
    """
    smallest, largest = batches
    worst = (0.0, 0.0)
    times = [("", 0), (" at the second call", 0)]
    if largest > smallest:
        times += [(f" at place {place} of a batch of {largest}", place) for place in (0, -1)]
    for index, (when, place) in enumerate(times):
        size = smallest if index < 2 else largest
        canvases = [picture[::-1, ::-1]] * size  # turned pictures beside it in a batch
        canvases[place] = picture
        outputs = run(_input(canvases, artifact["input"].get("format", "float32")))
        # Detections below the least expected score may be partners; they are not too many.
        found = select(outputs, place, artifact["nms"], artifact["min_score"] / 2)
        expected, tolerance = artifact["expected"], artifact["tolerance"]
        differs = differences(expected, found, tolerance, artifact["extra_above"])
        if isinstance(differs, str):
            raise BundleError(differs + when)
        worst = max(worst[0], differs[0]), max(worst[1], differs[1])
    return (
        f"{len(artifact['expected'])} boxes as expected, scores within {worst[0]:.2g}, boxes "
        f"within {worst[1]:.2g} px, in {len(times)} calls"
    )


def _input(canvases: Sequence[Any], form: str) -> Any:
    """Stack pictures to the graph's input: uint8 (B, H, W, 3), or float32 (B, 3, H, W) in 0..1."""
    stacked = np.stack(canvases)
    if form == "uint8":
        return stacked
    planes = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2), dtype=np.float32)
    return planes / np.float32(255)


def select(outputs: Outputs, place: int, nms: dict[str, Any], threshold: float) -> list[Any]:
    """Return [label, score, box] of what is above the threshold, best first, after NMS.

    Twice as many as the limit, so that near it every box can find its partner.
    """
    boxes, scores = outputs["boxes"][place], outputs["scores"][place]
    labels = outputs["labels"][place]
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise BundleError("boxes or scores are not finite")
    kept: list[Any] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] <= threshold or len(kept) == 2 * nms["max_detections"]:
            break
        label, box = int(labels[index]), boxes[index].astype(np.float64)
        rivals = [other for known, _, other in kept if known == label]
        if nms["mode"] != "host" or all(_iou(box, other) <= nms["iou"] for other in rivals):
            kept.append([label, float(scores[index]), box])
    return kept


def differences(
    expected: Sequence[Any], found: Sequence[Any], tolerance: dict[str, float], extra_above: float
) -> tuple[float, float] | str:
    """Return the largest difference of a score and of a box side, or in words what is wrong.

    Of what was found, scores below `extra_above` may go unmatched.
    """
    pairs = []
    for i, (label, score, box) in enumerate(expected):
        for j, (other_label, other_score, other_box) in enumerate(found):
            overlap = _iou(np.asarray(box, dtype=np.float64), other_box)
            if label == other_label and overlap >= MIN_IOU:
                pairs.append((abs(score - other_score) + 1 - overlap, i, j))
    ours: dict[int, int] = {}
    for _, i, j in sorted(pairs):  # the most alike first, so that neighbours cannot cross
        if i not in ours and j not in ours.values():
            ours[i] = j
    missing = [i for i in range(len(expected)) if i not in ours]
    extra = [
        j
        for j, (_, score, _) in enumerate(found)
        if score >= extra_above and j not in ours.values()
    ]
    if missing or extra:
        return f"{len(missing)} of {len(expected)} expected boxes missing, {len(extra)} too many"
    scores = [abs(expected[i][1] - found[j][1]) for i, j in ours.items()]
    sides = [float(np.abs(np.asarray(expected[i][2]) - found[j][2]).max()) for i, j in ours.items()]
    worst = max(scores, default=0.0), max(sides, default=0.0)
    if worst[0] > tolerance["score"] or worst[1] > tolerance["box_px"]:
        return (
            f"scores differ by up to {worst[0]:.3g} (allowed {tolerance['score']:g}), boxes by up "
            f"to {worst[1]:.3g} px (allowed {tolerance['box_px']:g})"
        )
    return worst


def _iou(one: Any, other: Any) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    union = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - shared
    return shared / union if union > 0 else float(np.abs(one - other).max() < 1)


def open_onnxruntime(
    path: Path, device: str, precision: str = "fp32"
) -> tuple[Run, tuple[int, int], Callable[[], None]]:
    """Return a function from batch to outputs, the batch sizes to try, and what closes it.

    Raises:
        BundleError: the device's provider did not load, or the file is refused.
        NotHereError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise NotHereError(f"needs onnxruntime ({error}): pip install onnxruntime") from None
    onnxruntime.set_default_logger_severity(4)
    wanted, options = PROVIDERS[device], onnxruntime.SessionOptions()
    if precision == "fp8":  # the optimiser moves FP8 to operators without kernels for it
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=[wanted], enable_fallback=False
        )
    except Exception as error:  # its exception classes share no base but this
        raise BundleError(f"ONNX Runtime {onnxruntime.__version__} refuses it: {error}") from None
    if wanted not in session.get_providers():
        raise BundleError(
            f"{wanted} was asked for, and ONNX Runtime offers "
            f"{', '.join(session.get_providers())}; install its libraries, or leave out --device"
        )
    taken = session.get_inputs()[0]
    names = [output.name for output in session.get_outputs()]
    size = taken.shape[0]
    batches = (size, size) if isinstance(size, int) else (1, 3)

    def run(batch: Any) -> Outputs:
        return dict(zip(names, session.run(names, {taken.name: batch}), strict=True))

    return run, batches, lambda: None


def open_tensorrt(
    path: Path, artifact: dict[str, Any]
) -> tuple[Run, tuple[int, int], Callable[[], None]]:
    """As `open_onnxruntime`, for a plan.

    Raises:
        BundleError: it was built for another machine, or TensorRT or the GPU refuses it.
        NotHereError: TensorRT or cuda-python is not installed.
    """
    try:
        import tensorrt as trt

        cuda = _cuda()
    except (ImportError, OSError) as error:
        raise NotHereError(f"needs tensorrt and cuda-python ({error})") from None

    def ask(answer: tuple[Any, ...]) -> Any:
        if int(answer[0]) != 0:
            raise BundleError(f"CUDA failed: {cuda.cudaGetErrorString(answer[0])[1]!r}")
        return answer[1] if len(answer) > 1 else None

    facts = ask(cuda.cudaGetDeviceProperties(0))
    here = {"tensorrt": trt.__version__, "compute_capability": f"{facts.major}.{facts.minor}"}
    _same_machine(artifact, here)
    logger = trt.Logger(trt.Logger.ERROR)
    trt.init_libnvinfer_plugins(logger, "")
    runtime: trt.Runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = bool(artifact.get("version_compatible"))
    engine: trt.ICudaEngine = runtime.deserialize_cuda_engine(path.read_bytes())
    context: trt.IExecutionContext = engine.create_execution_context() if engine else None
    if context is None:
        raise BundleError(f"TensorRT {trt.__version__} cannot load it; {_rebuild(artifact)}")
    stream = ask(cuda.cudaStreamCreateWithFlags(1))
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    source = next(n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT)
    size = engine.get_tensor_shape(source)[0]
    batches = (size, size)
    if size == -1:
        smallest, _, largest = engine.get_tensor_profile_shape(source, 0)
        batches = smallest[0], largest[0]

    def run(batch: Any) -> Outputs:
        memory, arrays = {}, {}
        try:
            if not context.set_input_shape(source, batch.shape) or context.infer_shapes():
                raise BundleError(f"the engine refuses a batch of {batch.shape}")
            for name in names:
                kind = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
                shape = tuple(context.get_tensor_shape(name))
                arrays[name] = batch if name == source else np.empty(shape, dtype=kind)
                memory[name] = ask(cuda.cudaMalloc(arrays[name].nbytes))
                context.set_tensor_address(name, int(memory[name]))
            pointers = {name: array.ctypes.data for name, array in arrays.items()}
            # On the engine's own stream: other copies from pageable memory would not wait for it.
            kinds = cuda.cudaMemcpyKind
            to_device, to_host = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
            size = batch.nbytes
            ask(cuda.cudaMemcpyAsync(memory[source], pointers[source], size, to_device, stream))
            if not context.execute_async_v3(int(stream)):
                raise BundleError("TensorRT failed to run it")
            for name in names:
                if name != source:
                    size = arrays[name].nbytes
                    ask(cuda.cudaMemcpyAsync(pointers[name], memory[name], size, to_host, stream))
            ask(cuda.cudaStreamSynchronize(stream))
        finally:
            for pointer in memory.values():
                cuda.cudaFree(pointer)
        return arrays

    return run, batches, lambda: cuda.cudaStreamDestroy(stream)


def _cuda() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:
        from cuda import cudart as runtime  # before cuda-python 12.6
    return runtime


def _same_machine(artifact: dict[str, Any], here: dict[str, str]) -> None:
    built = artifact.get("built_on")
    if built is None or artifact.get("version_compatible") or artifact.get("portable") != "none":
        return  # TensorRT itself will say
    words = {"tensorrt": "TensorRT", "compute_capability": "a GPU of SM"}
    found = [
        f"{word} {built[key]} (here: {here[key]})"
        for key, word in words.items()
        if built[key] != here[key]
    ]
    if found:
        raise BundleError(f"was built for {' and '.join(found)}; {_rebuild(artifact)}")


def _rebuild(artifact: dict[str, Any]) -> str:
    return f"build it here with ./build_engines.sh, from the ONNX file of {artifact['name']}"


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Check that a bundle finds on this machine what it found where it was made.",
        epilog="exit codes: 0 all that could be checked is as expected, 4 nothing could be for "
        "want of a package, 6 something differs",
    )
    parser.add_argument(
        "bundle",
        type=Path,
        nargs="?",
        default=Path(__file__).resolve().parent,
        metavar="BUNDLE",
        help="the folder (default: the one this file lies in)",
    )
    parser.add_argument("--only", metavar="NAME", help="check this artifact alone")
    parser.add_argument(
        "--device", choices=tuple(PROVIDERS), default="cpu", help="of ONNX Runtime (default: cpu)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
