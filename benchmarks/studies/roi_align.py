"""Compare Faster R-CNN's graph with torchvision: `python -m benchmarks.studies.roi_align RUN`.

A development benchmark and an exception to "benchmarks never imports compress": torchvision's eager
model is built around the trained modules themselves. Nothing else imports it.

RUN is the folder of a finished run, or one of its `models/` with the weights. Its Faster R-CNN is
exported with the atlas and with the masked RoIAlign, for several numbers of proposals. First all
detections on the data set are compared with those of torchvision's own eager GeneralizedRCNN, which
has the same weights and limits; a difference stops the benchmark. Then eager torchvision and both
graphs are timed in one interleaved run, on ONNX Runtime's CPU provider and torch's CPU.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.image_set import ImageSet, read_canvas, read_coco
from benchmarks.studies.two_stage import EAGER, FORMS, LOW_SCORE, EagerEngine, Trained, open_trained
from benchmarks.timing.environment import environment, usable_cores
from benchmarks.timing.latency import BenchmarkConfig, measure, ratio_ci
from benchmarks.timing.records import Timing
from compress.detectors.parts.selection import MAX_CANDIDATES
from export.artifact.manifest import file_sha256
from export.atomic import write_json
from export.checks.parity import Gate, compare_detections
from export.detections import Detections, select_detections
from export.engine import Engine, open_engine
from export.errors import DataError, ExportError, ToolkitError
from export.pictures.images import to_input

RESULT = Path(__file__).parents[1] / "results" / "roi_align_cpu.json"
HEADER = f"{'proposals':>9} {'model':<7} {'engine ms':>10} {'end to end ms':>14}  against the atlas"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, measure, print a table and write JSON; return the exit code."""
    given = _parser().parse_args(arguments)
    config = BenchmarkConfig(
        blocks=given.blocks, calls_per_block=given.calls, threads=given.threads, time_limit_s=None
    )
    try:
        trained = open_trained(given.run)
        images = read_coco(given.data, given.images)
        result = run(trained, images, given.proposals, config)
        write_json(result, given.out)
    except ToolkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(table(result) + f"\nresult: {given.out}\n")
    return 0


def run(
    trained: Trained, images: ImageSet, proposals: Sequence[int], config: BenchmarkConfig
) -> dict[str, Any]:
    """Export, compare, then time everything side by side; return the content of the JSON file.

    Raises:
        DataError: the data set has no picture.
        ExportError: the detections of a graph differ from torchvision's.
    """
    height, width = trained.recipe.data.input_size
    canvases = [read_canvas(images, index, height, width)[0] for index in range(len(images))]
    if not canvases:
        raise DataError(f"{images.source}: no picture to compare detections on")
    compared: dict[int, dict[str, Any]] = {}
    engines: dict[str, Engine] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for count in proposals:
            sys.stderr.write(f"{count} proposals: {len(images)} pictures\n")
            eager = trained.build(images, count, "masked")
            manifest = trained.manifest(images, eager)
            rivals: dict[str, Engine] = {
                EAGER: EagerEngine(eager, manifest, LOW_SCORE, config.threads)
            }
            for form in FORMS:
                target = Path(folder) / f"{form}{count}"
                graph = trained.export(images, count, form, canvases[0], target)
                rivals[form] = open_engine(graph, config.threads)
            opened = {name: stack.enter_context(engine) for name, engine in rivals.items()}
            compared[count] = compare(opened, canvases)
            engines |= {f"{name} {count}": engine for name, engine in opened.items()}
        for engine in engines.values():
            if isinstance(engine, EagerEngine):  # as callers of the graphs do
                engine.model.roi_heads.score_thresh = config.score_threshold
        sys.stderr.write(f"latency of {len(engines)} models, interleaved\n")
        timings = measure(engines, images, config)
    parameters = next(iter(engines.values())).manifest.parameters
    return {
        "schema": 1,
        "model": {"run": trained.recipe.name, "name": trained.name, "parameters": parameters},
        "weights_sha256": file_sha256(trained.weights),
        "detector": trained.config.model_dump(
            mode="json", exclude={"weights", "backbone_weights", "proposals", "roi_align"}
        ),
        "input": [height, width],
        "data": {"pictures": len(images), "classes": list(images.classes)},
        "threads": config.threads,
        "proposals": {
            str(n): {**compared[n], **_latency({k: timings[f"{k} {n}"] for k in (EAGER, *FORMS)})}
            for n in proposals
        },
        "environment": environment(),
    }


def compare(engines: Mapping[str, Engine], canvases: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """Compare the detections of both graphs with eager torchvision's, picture by picture.

    Raises:
        ExportError: the detections differ.
    """
    seen: dict[str, list[Detections]] = {name: [] for name in engines}
    most = 0
    for canvas in canvases:
        for name, engine in engines.items():
            found = engine.candidates(to_input([canvas], engine.manifest.input))
            seen[name] += select_detections(found, engine.manifest.nms, LOW_SCORE)
            if name != EAGER:
                most = max(most, int((found.scores > LOW_SCORE).sum()))
    result = {}
    for form in FORMS:
        parity = compare_detections(seen[EAGER], seen[form])
        result[form] = parity.to_dict()
        if not parity.ok(Gate()):
            raise ExportError(
                f"{form}: detections differ from eager torchvision's: {parity.missing} of "
                f"{parity.matched + parity.missing} boxes missing, {parity.extra} extra, scores "
                f"within {parity.max_score_difference:.2g}, boxes within "
                f"{parity.max_box_difference_px:.2g} px; candidates above {LOW_SCORE}: up to "
                f"{most}, and a graph keeps {MAX_CANDIDATES}"
            )
    eager = engines[EAGER]
    kept = eager.kept if isinstance(eager, EagerEngine) else []
    return {
        "against_eager": result,
        "most_candidates": most,
        "proposals_of_torchvision": {"mean": float(np.mean(kept)), "most": max(kept)},
    }


def _latency(timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Return times of each model and ratios to the atlas; eager's boxes are after NMS."""
    atlas = timings["atlas"]
    ratios = {}
    for name in ("masked", EAGER):
        other = timings[name]
        scopes = {"end_to_end": ratio_ci(other.end_to_end_blocks, atlas.end_to_end_blocks)}
        if name != EAGER:
            scopes["engine"] = ratio_ci(other.engine_blocks, atlas.engine_blocks)
        ratios[f"{name} over atlas"] = {
            scope: {"ratio": r.ratio, "ci95": list(r.ci95), "atlas_is": r.verdict}
            for scope, r in scopes.items()
        }
    return {
        "latency_ms": {
            name: timing.latency_ms.model_dump(mode="json") for name, timing in timings.items()
        },
        "verdicts": {name: timing.verdict for name, timing in timings.items()},
        "ratios": ratios,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as a table of text."""
    lines = [HEADER]
    for count, entry in result["proposals"].items():
        for name in (EAGER, *reversed(FORMS)):
            timed = entry["latency_ms"][name]
            line = f"{count:>9} {name:<7} {timed['engine']['p50']:>10.2f} "
            line += f"{timed['end_to_end']['p50']:>14.2f}"
            for scope, ratio in entry["ratios"].get(f"{name} over atlas", {}).items():
                low, high = ratio["ci95"]
                line += f"  {scope} {ratio['ratio']:.2f} x [{low:.2f}, {high:.2f}]"
            lines.append(line)
        for form, parity in entry["against_eager"].items():
            lines.append(
                f"{count:>9} {form} and eager: {parity['matched']} boxes, {parity['missing']} "
                f"missing, {parity['extra']} extra; scores within "
                f"{parity['max_score_difference']:.1e}, boxes within "
                f"{parity['max_box_difference_px']:.1e} px"
            )
    verdicts = {v for e in result["proposals"].values() for v in e["verdicts"].values()}
    return "\n".join([*lines, *(f"timing: {verdict}" for verdict in sorted(verdicts))])


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if any(not 1 <= number <= 3840 for number in numbers):
        raise argparse.ArgumentTypeError("expected numbers from 1 to 3840, as in 100,300,1000")
    return numbers


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}")
        return int(text)

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.roi_align", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="runs/NAME, or runs/NAME/models/NAME")
    parser.add_argument("--data", type=Path, required=True, help="COCO annotations, JSON")
    parser.add_argument(
        "--images", type=Path, help="folder of the pictures (default: searched for)"
    )
    parser.add_argument(
        "--proposals",
        type=_numbers,
        default=(100, 300, 1000),
        help="numbers of proposals (default: 100,300,1000)",
    )
    parser.add_argument(
        "--blocks",
        type=_at_least(2),
        default=8,
        help="timed blocks, interleaved between the models",
    )
    parser.add_argument("--calls", type=_at_least(1), default=25, help="calls per block and scope")
    parser.add_argument(
        "--threads",
        type=_at_least(1),
        default=usable_cores(),
        help="CPU threads of each model (default: all cores)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULT,
        help=f"file to write (default: benchmarks/results/{RESULT.name})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
