"""The teachers of a run: train or load them, and measure them before they teach."""

from pathlib import Path

from benchmarks.data.image_set import coco_ground_truth
from compress.console import Console
from compress.detector import Detector
from compress.distillation.distiller import Distiller
from compress.parts.weights import WeightsReport, load_weights
from compress.stages.fit import (
    evaluate_torch,
    fit,
    torch_manifest,
)
from compress.stages.model_file import describe_model, save_model
from compress.stages.model_name import ModelName
from compress.stages.opened import Run, Teacher
from compress.stages.rundir import once, read_record
from export.atomic import write_json


def teacher_folder(run: Run, teacher: Teacher) -> Path:
    """Train the teacher, or copy its weights from the recipe's file; return its folder."""
    session, config, reports = run.session, teacher.config, list[WeightsReport]()
    name, licences = str(teacher.name), run.licences_behind(teacher.name, {})

    def fresh() -> Distiller:
        detector = teacher.build(run.recipe.seed)
        batch = None if config.train is None else config.train.batch
        loaded = run.begin(
            detector,
            config.detector,
            teacher.data,
            teacher.name,
            batch=batch,
            strict=config.strict,
        )
        reports.extend(loaded)
        return Distiller(detector)

    if config.train is not None:
        seed = run.recipe.seed
        return fit(
            run, teacher.name, fresh, teacher.data, config.train, seed=seed, licences=licences
        )

    def keep(out: Path) -> None:
        """Write a loaded teacher's weights in the form of a trained one's."""
        detector: Detector = fresh().student
        manifest = torch_manifest(detector, teacher.data, run.recipe.export, name, licences)
        metadata = describe_model(config.detector, manifest, run.recipe.resolved())
        save_model(detector.state_dict(), metadata, out / "model.safetensors")
        record = {"name": name, "loaded": True, "rows": [], "steps": 0}
        partial = [report.summary() for report in reports if not report.complete]
        write_json({**record, "loaded_in_part": partial}, out / "training.json")

    folder = run.home / "models" / name
    if session.rank == 0:
        once(folder, keep)
    if session.world > 1:
        session.fabric("32-true").barrier()
    return folder


def load_teacher(run: Run, teacher: Teacher, folder: Path) -> Detector:
    """Build the teacher with the weights in its folder."""
    detector = teacher.build(run.recipe.seed)
    load_weights(detector, folder / "model.safetensors", strict=True, what=str(teacher.name))
    return detector


def measure_teacher(run: Run, teacher: Teacher, detector: Detector) -> float | None:
    """Measure and print the teacher's AP on the student's validation split."""
    session, data = run.session, run.data
    manifest = torch_manifest(detector, data, run.recipe.export, "teacher")
    metrics = evaluate_torch(session, detector, manifest, data, coco_ground_truth(data.val))
    ap = metrics.values["AP"]
    session.console.print(
        f"{teacher.name}: AP {'n/a' if ap is None else f'{100 * ap:.1f}'} on {data.val.source}"
    )
    unknown = [name for name in data.classes if name not in teacher.classes]
    if unknown:
        session.console.warn(
            f"{teacher.name} does not know {', '.join(unknown)}: its AP counts them as missed, and "
            "only its features can be distilled"
        )
    return ap


def warn_of_a_weak_teacher(
    console: Console, name: ModelName, teacher_ap: float | None, baseline: Path
) -> None:
    """Warn of a teacher whose AP is not above that of the student trained without it."""
    alone = read_record(baseline).last_ap
    if teacher_ap is not None and alone is not None and teacher_ap <= alone:
        console.warn(
            f"the {name} (AP {100 * teacher_ap:.1f}) is not above the student trained "
            f"without it ({100 * alone:.1f}); distillation from it is unlikely to help. Train the "
            "teacher longer or on more data, or use a larger one"
        )
