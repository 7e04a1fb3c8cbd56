"""Export one finished model in every precision, and compare each file with torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.evaluate import predict
from benchmarks.data.image_set import ImageSet, coco_ground_truth, read_canvas
from compress.detector import Detector
from compress.recipe import ExportConfig
from compress.stages.fit import torch_manifest
from compress.stages.model_name import ModelName
from compress.stages.opened import Run
from compress.stages.torch_engine import TorchEngine
from export.artifact.manifest import Manifest, read_manifest, write_manifest
from export.atomic import write_json
from export.checks.certificate import certify
from export.checks.parity import Gate, Parity, compare_detections, draw_difference, unstable
from export.detections import Detections
from export.engine import Engine, detect_on_canvases, open_engine
from export.errors import ExportError, counted
from export.graph.nms import put_nms_inside
from export.graph.to_onnx import export_onnx
from export.graph.uint8_input import take_uint8
from export.pictures.images import to_tensor
from export.precision.fp8 import NOTHING_FOR_FP8, open_fp8_quantizer
from export.precision.fp16 import cast_half
from export.precision.int8 import Flavour, Int8Settings, open_quantizer
from export.precision.quantizer import Quantizer
from export.precision.sensitivity import MeasureAp, limit_drop

REFUSED = "refused.json"  # written instead of a file that could not be made as asked
# INT8 and FP8 are checked by AP, because their boxes differ by design.
_GATES = {"fp32": Gate(), "fp16": Gate(0.03, 2.0, 0.02)}
_LOW_SCORE = 0.01  # lowest score of detections to match; differences count from 0.05


@dataclass(frozen=True)
class Maker:
    """Exporter of one model in all its precisions.

    Attributes:
        run: the run.
        detector: the model, with its final weights.
        name: name of the model.
        licences: those of its teachers' code.
    """

    run: Run
    detector: Detector
    name: ModelName
    licences: Sequence[str] = ()

    @property
    def export(self) -> ExportConfig:
        """The recipe's export settings."""
        return self.run.recipe.export

    def fp32(self, out: Path) -> None:
        """Export the detector to `out`, with the NMS and input of the recipe.

        Raises:
            ExportError: the detections of the file differ from torch's.
        """
        pictures = self._pictures
        write_fp32(self.detector, self._torch_manifest, self.export, pictures, pictures[0], out)
        self._judge(out / "model.onnx")

    def fp16(self, source: Path, out: Path) -> None:
        """Cast the float model at `source` to half precision.

        Raises:
            ExportError: the model overflows, or its detections differ from torch's.
        """
        self._judge(cast_half(source, self._pictures, out))

    def int8(self, source: Path, out: Path, flavour: Flavour) -> None:
        """Quantise the float model at `source`; write `refused.json` where AP is lost."""
        config, calibration = self.export.quantization, self.export.calibration
        seen, held = self._calibration()
        settings = Int8Settings(
            flavour=flavour,
            keep_float=config.keep_float,
            method=calibration.method,
            seed=calibration.seed,
            remainder=config.remainder,
        )
        cache = self.run.home / "calibration"
        quantizer = open_quantizer(source, seen, out, settings, cache=cache)
        self._quantize(quantizer, seen, held, out, "fp32" if flavour == "cpu" else "fp16 or fp32")

    def fp8(self, source: Path, out: Path) -> None:
        """Make the FP8 graph of the model at `source`; write `refused.json` where AP is lost."""
        seen, held = self._calibration()
        quantizer = open_fp8_quantizer(
            source,
            seen,
            out,
            keep_float=self.export.quantization.keep_float,
            seed=self.export.calibration.seed,
            cache=self.run.home / "calibration",
        )
        self._quantize(quantizer, seen, held, out, "fp16 or fp32")

    def _calibration(self) -> tuple[list[NDArray[np.uint8]], ImageSet]:
        """Choose training pictures for calibration, and others to measure the loss of AP on."""
        calibration, train = self.export.calibration, self.run.data.train
        order = np.random.default_rng(calibration.seed).permutation(len(train)).tolist()
        held_back = min(self.export.quantization.check_images, len(order) // 2)
        seen = order[: min(calibration.count, len(order) - held_back)]
        held = train.subset(order[len(seen) : len(seen) + held_back])
        return [self._canvas(train, index) for index in seen], held

    def _quantize(
        self,
        quantizer: Quantizer,
        seen: Sequence[NDArray[np.uint8]],
        held: ImageSet,
        out: Path,
        instead: str,
    ) -> None:
        """Quantise as many layers as `max_drop` allows; name `instead` if none may be."""
        console, max_drop = self.run.session.console, self.export.quantization.max_drop
        what = f"{self.name} {quantizer.precision}"
        console.print(
            f"{what}: calibrated on {counted(len(seen), 'training picture')}, "
            f"{counted(len(quantizer.nodes), 'node')} may be quantised"
        )
        nodes, record = quantizer.nodes, {}
        if not nodes:
            self._refuse(quantizer, f"{what}: not made: {NOTHING_FOR_FP8}; keep fp16", {}, out)
            return
        if max_drop is not None and len(held):
            probes = [self._canvas(held, index) for index in range(min(4, len(held)))]
            outcome = limit_drop(quantizer, probes, _ap_on(held), max_drop)
            record = {**outcome.record, "check_images": len(held)}
            if outcome.nodes is None:
                reason = (
                    f"{what}: not made: {record['ap_fp32']} AP fall to "
                    f"{record['ap_all_quantized']} on "
                    f"{counted(len(held), 'held-back training picture')}, and no choice of layers "
                    f"keeps the loss within max_drop: {max_drop:g}; keep "
                    f"{instead}"
                )
                self._refuse(quantizer, reason, record, out)
                return
            nodes = outcome.nodes
            console.print(_restored(what, record))
        self._judge(quantizer.write(out, nodes, record, seen[0]))

    def _refuse(
        self, quantizer: Quantizer, reason: str, record: Mapping[str, object], out: Path
    ) -> None:
        self.run.session.console.warn(reason)
        write_json({"reason": reason, **quantizer.record, **record}, out / REFUSED)

    @cached_property
    def _torch_manifest(self) -> Manifest:
        data, role = self.run.data, self.name.role
        return torch_manifest(self.detector, data, self.export, role, self.licences)

    @cached_property
    def _pictures(self) -> list[NDArray[np.uint8]]:
        """Validation pictures of the comparison with torch."""
        count = min(self.export.parity_images, len(self.run.data.val))
        return [self._canvas(self.run.data.val, index) for index in range(count)]

    @cached_property
    def _reference(self) -> list[Detections]:
        """Torch's detections on `_pictures`."""
        return torch_detections(self.detector, self._torch_manifest, self._pictures)

    def _canvas(self, images: ImageSet, index: int) -> NDArray[np.uint8]:
        return read_canvas(images, index, self.run.data.input_height, self.run.data.input_width)[0]

    def _judge(self, path: Path) -> None:
        """Compare a file with torch and record the differences in its manifest.

        Raises:
            ExportError: the differences exceed the limits of its precision, or equal pictures give
                different detections.
        """
        console, pictures = self.run.session.console, self._pictures
        compared = compare_with_torch(path, str(self.name), self._reference, pictures)
        parity, what = compared.parity, f"{self.name} {compared.precision}"
        if not parity.matched and not parity.missing:
            console.warn(
                f"{what}: torch finds nothing that scores 0.05 on "
                f"{counted(len(pictures), 'picture')}, those of the comparison, so the comparison "
                "is empty"
            )
        count = counted(len(pictures), "picture")
        console.print(f"{what}: {compared.figures} on {count}, against torch")


@dataclass(frozen=True)
class Compared:
    """A file whose detections agree with torch's.

    Attributes:
        precision: precision of the file.
        parity: the differences from torch.
        figures: the differences as text.
    """

    precision: str
    parity: Parity
    figures: str


def write_fp32(
    detector: Detector,
    manifest: Manifest,
    export: ExportConfig,
    pictures: Sequence[NDArray[np.uint8]],
    sample: NDArray[np.uint8],
    out: Path,
) -> Path:
    """Export a detector to `out` with NMS and input as `export` says; return the ONNX file.

    A detector that needs no NMS gets none.

    Args:
        detector: the model with its final weights; it is moved to the CPU.
        manifest: manifest of the detector in torch.
        export: the recipe's export settings.
        pictures: letterboxed pictures on which the matrix form of NMS must converge.
        sample: a letterboxed picture to trace with.
        out: folder of the file and its sidecar.

    Raises:
        ExportError: the detector cannot be traced, or NMS does not converge.
    """
    manifest = manifest.model_copy(
        update={
            "backend": "onnxruntime",
            "input": manifest.input.model_copy(update={"dynamic_batch": export.dynamic_batch}),
        }
    )
    detector = detector.cpu()
    path = export_onnx(
        detector,
        manifest,
        out,
        to_tensor([sample]),
        opset=export.opset,
        translations=getattr(detector, "onnx_translations", None),
    )
    if export.nms in ("graph", "matrix") and manifest.nms.mode == "host":
        put_nms_inside(path, export.nms, pictures)
    if export.input == "uint8":
        take_uint8(path)
    _amend(path, certificate=certify(path, sample))
    return path


def torch_detections(
    detector: Detector, manifest: Manifest, pictures: Sequence[NDArray[np.uint8]]
) -> list[Detections]:
    """Return torch's detections on letterboxed pictures; the detector is moved to the CPU."""
    with TorchEngine(detector.cpu(), manifest) as engine:
        return _detect(engine, pictures)


def compare_with_torch(
    path: Path,
    what: str,
    reference: Sequence[Detections],
    pictures: Sequence[NDArray[np.uint8]],
) -> Compared:
    """Compare a file with torch and record the differences in its sidecar.

    Args:
        path: the file.
        what: name of the model, for messages.
        reference: torch's detections on `pictures`.
        pictures: letterboxed pictures.

    Raises:
        ExportError: the differences exceed the limits of its precision, or equal pictures give
            different detections.
    """
    with open_engine(path) as engine:
        manifest = engine.manifest
        problems = unstable(engine, pictures)
        found = _detect(engine, pictures)
    parity = compare_detections(reference, found)
    worst = parity.worst_image
    figures = (
        f"{parity.matched} matched, {parity.missing} missing, {parity.extra} extra, scores "
        f"within {parity.max_score_difference:.2g}, boxes within "
        f"{parity.max_box_difference_px:.2g} px"
    )
    if worst is not None and not parity.ok():
        drawn = draw_difference(pictures[worst], reference[worst], found[worst], manifest.classes)
        Image.fromarray(drawn).save(path.with_name("worst.png"))
    gate = _GATES.get(manifest.precision)
    if gate is not None and not parity.ok(gate):
        problems.insert(0, f"its detections differ from torch's: {figures} (see worst.png there)")
    if problems:
        raise ExportError(
            f"{path}: {what} {manifest.precision} on {counted(len(pictures), 'picture')}: "
            f"{'; '.join(problems)}. Only correct files are kept"
        )
    _amend(path, parity={**parity.to_dict(), "images": len(pictures), "stable": True})
    return Compared(manifest.precision, parity, figures)


def _amend(path: Path, **changes: object) -> None:
    sidecar = path.with_suffix(".json")
    write_manifest(read_manifest(sidecar).model_copy(update=changes), sidecar)


def _detect(engine: Engine, canvases: Sequence[NDArray[np.uint8]]) -> list[Detections]:
    """Run canvases one at a time, since the batch of a graph may be fixed to 1."""
    return [detect_on_canvases(engine, [canvas], _LOW_SCORE)[0] for canvas in canvases]


def _ap_on(images: ImageSet) -> MeasureAp:
    """Return a function that measures an artifact's AP (0..1) on labelled pictures."""
    truth = coco_ground_truth(images)

    def measure(path: Path) -> float | None:
        with open_engine(path) as engine:
            results = predict(engine, images, batch=16)
        return coco_map(results, truth).values["AP"]

    return measure


def _restored(what: str, record: dict[str, Any]) -> str:
    base = (
        f"{what}: AP {record['ap_fp32']} in fp32, {record['ap']} quantised, on "
        f"{counted(record['check_images'], 'held-back training picture')}"
    )
    if not record["layers_restored"]:
        return f"{base}; no layer restored to float"
    cost = record.get("price", {}).get("slower_than_all_int8")
    paid = "" if cost is None else f", {cost:+.0%} time"
    return (
        f"{base}; {record['layers_restored']} of {counted(len(record['layers']), 'layer')} "
        "restored to float "
        f"(all quantised: {record['ap_all_quantized']}{paid})"
    )
