"""Train one detector of a run (teacher, baseline or student) and write its folder."""

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.evaluate import predict
from benchmarks.accuracy.metric import CocoResult, MetricValues
from benchmarks.data.image_set import GroundTruth, coco_ground_truth
from compress.batch import Batch
from compress.data.config import Data
from compress.data.loading import steps_per_epoch, training_batches
from compress.detector import Detector
from compress.distillation.distiller import Distiller, advice
from compress.parts.batch_norm import over_processes
from compress.parts.licence import made_with
from compress.parts.weights import count_parameters, save_weights, weights_hash
from compress.recipe import ExportConfig
from compress.stages.model_file import ModelMetadata, describe_model, save_model
from compress.stages.model_name import ModelName
from compress.stages.opened import Run, StepPictures, pictures_in_step
from compress.stages.rundir import finished, once
from compress.stages.session import Session, peak_memory_mb
from compress.stages.torch_engine import TorchEngine
from compress.training.backbone_stages import hold
from compress.training.job import Batches, Evaluate, Trained, TrainJob
from compress.training.loop import train
from compress.training.objective import Term
from compress.training.optim import TrainConfig
from compress.training.precision import Precision, resolve_precision
from export.artifact.manifest import InputSpec, Manifest, NmsSpec
from export.artifact.preprocessing import Preprocessing
from export.atomic import write_json
from export.errors import counted


def fit(
    run: Run,
    name: ModelName,
    build: Callable[[], Distiller],
    data: Data,
    config: TrainConfig,
    *,
    seed: int,
    steps: int | None = None,
    licences: Collection[str] = (),
) -> Path:
    """Train what `build` returns and return its folder `models/<name>`; keep a finished one.

    The folder holds `model.safetensors`, the trained detector with its metadata, and
    `training.json`, the record of its training. Every process calls this; the first one writes.

    Args:
        run: the run.
        name: name of the model.
        build: returns the objective before any training; not called for a finished folder.
        data: pictures to train and evaluate on.
        config: training settings.
        seed: seed of the order of the pictures.
        steps: length of the training, in place of the schedule's own.
        licences: those of the teachers' code, see `DetectorSpec.licence`.
    """
    session, export, what = run.session, run.recipe.export, str(name)
    folder = run.home / "models" / what
    if finished(folder):
        session.console.print(f"{name}: already trained, kept")
        return folder
    device = session.torch_device()
    objective = _held(session, name, build(), config)
    detector: Detector = objective.student
    size = (data.input_height, data.input_width)
    precision, why = choose_precision(session, objective, config, size)
    pictures = in_step(data, config, objective)
    total = steps or config.total_steps(steps_per_epoch(data, config.batch))
    batches = batches_of(session, data, config, seed, total, objective)
    session.console.print(
        f"{name}: {counted(total, 'step')} of {_in_words(pictures)} of "
        f"{_pictures_in_words(data, total, unlabeled=bool(pictures.unlabeled))}, "
        f"{count_parameters(detector) / 1e6:.3f}M parameters, {why}"
    )
    terms = _first_look(session, objective, batches, device, precision) if objective.losses else []
    before = [weights_hash(network) for network in objective.frozen]
    trained = train(
        TrainJob(
            name=what,
            objective=objective,
            batches=batches,
            config=config,
            total=total,
            live=session.home / "training" / what,
            evaluate=_evaluation(run, what, data),
            fabric=session.fabric(precision),
            seed=seed,
            console=session.console,
            trackers=session.trackers,
        )
    )
    if before != [weights_hash(network) for network in objective.frozen]:
        raise RuntimeError("the teacher's weights changed during training: a bug, please report it")
    record: dict[str, object] = {
        "name": what,
        "seed": seed,
        "precision": precision,
        "precision_why": why,
        "parameters": count_parameters(detector),
        "batch": pictures.labeled,
        "unlabeled_batch": pictures.unlabeled,
        "terms_at_first_step": [asdict(term) for term in terms],
        "teacher_sha256": before[0] if before else None,
        "peak_memory_mb": round(peak_memory_mb(device), 1),
        "auto_weights": objective.auto_weights(),
        **_summary(trained),
    }
    manifest = torch_manifest(detector, data, export, what, licences)
    metadata = describe_model(run.settings_of(name), manifest, run.recipe.resolved())
    furnish(session, folder, trained, record, precision, metadata)
    return folder


def _held(session: Session, name: ModelName, built: Distiller, config: TrainConfig) -> Distiller:
    """Freeze what the settings say of the student's backbone, and print it."""
    held = hold(built.student, config.freeze_at, norm_eval=config.norm_eval)
    if held:
        session.console.print(f"{name}: {held}")
    return built


def _pictures_in_words(data: Data, total: int, *, unlabeled: bool) -> str:
    """Return how many pictures a training of `total` steps has, and where its mosaics end."""
    words = [counted(len(data.train), "picture")]
    if unlabeled and data.unlabeled:
        words.append(f"{len(data.unlabeled)} unlabelled")
    last = data.augment.mosaic_steps(total)
    if data.augment.mosaic and last < total:
        words.append(f"mosaics up to step {last}")
    return ", ".join(words)


def choose_precision(
    session: Session, objective: Distiller, config: TrainConfig, size: tuple[int, int]
) -> tuple[Precision, str]:
    """Choose the precision of this training; with several processes, the first one chooses."""
    if session.world > 1 and session.rank != 0:
        chosen: tuple[Precision, str] = session.fabric("32-true").broadcast(("32-true", ""))
        return chosen
    record = session.home / "precision.json"
    chosen = resolve_precision(
        config.amp,
        session.torch_device(),
        lambda: probe(objective),
        record,
        size,
        batch=max(1, config.batch // session.world),
    )
    return session.fabric("32-true").broadcast(chosen) if session.world > 1 else chosen


def _evaluation(run: Run, name: str, data: Data) -> Evaluate:
    """Return the function that computes a model's COCO metrics on the validation split."""
    ground_truth = coco_ground_truth(data.val)

    def evaluate(model: nn.Module) -> dict[str, float | None]:
        assert isinstance(model, Detector)
        manifest = torch_manifest(model, data, run.recipe.export, name)
        return evaluate_torch(run.session, model, manifest, data, ground_truth).values

    return evaluate


def _summary(trained: Trained) -> dict[str, object]:
    return {
        "steps": trained.steps,
        "seconds": trained.seconds,
        "step_ms": 1000 * trained.seconds / max(1, trained.steps),
        "stopped": trained.stopped,
        "conditions": [asdict(conditions) for conditions in trained.conditions],
        "rows": trained.rows,
        "terms": trained.terms,
    }


def in_step(data: Data, config: TrainConfig, objective: Distiller | None) -> StepPictures:
    """Return how many pictures a step of an objective takes."""
    distils = objective is not None and bool(objective.losses)
    return pictures_in_step(data, config, distils=distils)


def _in_words(pictures: StepPictures) -> str:
    also = f" and {pictures.unlabeled}" if pictures.unlabeled else ""
    return f"{pictures.labeled}{also}"


def _first_look(
    session: Session,
    objective: Distiller,
    batches: Batches,
    device: torch.device,
    precision: str,
) -> Sequence[Term]:
    """Compare every distillation term with the task loss on the first batch, and print it."""
    objective.to(device).train()
    over_processes(objective, device)
    for network in objective.frozen:
        network.to(device)
    batch = next(batches(0, 1)).to(device)
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    with torch.autocast(device.type, half, enabled=precision != "32-true"):
        terms = objective.measure(batch)
    for term in terms:
        session.console.print(
            f"  {term.name}: {term.value:.4g} at step 1, {term.ratio:.3g} of the task loss, "
            f"gradient {term.gradient_ratio:.3g} of the task's at the shared features"
        )
    for line in advice(terms):
        session.console.warn(line)
    return terms


def probe(objective: Distiller) -> nn.Module:
    """Copy the student's backbone, for timing precisions."""
    backbone = copy.deepcopy(objective.student.backbone)
    assert isinstance(backbone, nn.Module)
    return backbone.requires_grad_(True)  # frozen stages too: the probe trains


def torch_manifest(
    detector: Detector,
    data: Data,
    export: ExportConfig,
    model: str,
    licences: Collection[str] = (),
) -> Manifest:
    """Return the manifest of a detector in torch, from which those of exported files are made.

    `licences` are those of code other than its own that it was made with.
    """
    classes = detector.spec.classes or data.classes
    return Manifest(
        model=model,
        family=detector.spec.family,
        backend="torch",
        precision="fp32",
        parameters=count_parameters(detector),
        input=InputSpec(
            height=data.input_height,
            width=data.input_width,
            dynamic_batch=True,
            preprocessing=Preprocessing(bit_depth=data.train.bit_depth),
        ),
        classes=classes,
        category_ids=category_ids(classes, data),
        nms=_nms_of(detector, export),
        score_threshold=export.score_threshold,
        evaluation_score_threshold=export.evaluation_score_threshold,
        made_by=made_with([detector.spec.licence, *licences]),
    )


def _nms_of(detector: Detector, export: ExportConfig) -> NmsSpec:
    """Return the NMS that a detector needs."""
    if detector.spec.nms_free:  # at an IoU of 1 a client that knows no `none` drops nothing
        return NmsSpec(mode="none", iou=1.0, max_detections=export.max_detections)
    return NmsSpec(iou=export.nms_iou, max_detections=export.max_detections)


def category_ids(classes: Sequence[str], data: Data) -> tuple[int, ...]:
    """Return the data's category id of each class; one unknown to the data gets an unused id."""
    known = dict(zip(data.classes, data.category_ids, strict=True))
    free = itertools.count(max(data.category_ids) + 1)
    return tuple(known[name] if name in known else next(free) for name in classes)


def evaluate_torch(
    session: Session,
    detector: Detector,
    manifest: Manifest,
    data: Data,
    ground_truth: GroundTruth,
) -> MetricValues:
    """Compute COCO metrics on the validation split; the processes share the pictures."""
    share = range(session.rank, len(data.val), session.world)
    with TorchEngine(detector, manifest, session.torch_device()) as engine:
        results = predict(engine, data.val, batch=16, indices=share, other_classes=True)
    if session.world > 1:
        parts: list[list[CocoResult]] = [[]] * session.world
        torch.distributed.all_gather_object(parts, results)
        results = [result for part in parts for result in part]
    return coco_map(results, ground_truth)


def batches_of(
    session: Session,
    data: Data,
    config: TrainConfig,
    seed: int,
    total: int,
    objective: Distiller | None = None,
    *,
    cycle: int | None = None,
) -> Batches:
    """Return the source of this process's batches.

    `total` is the length of the training in optimiser steps, which decides where mosaics end. The
    `objective` decides whether they have pictures without labels, in which views pictures are
    taken, and whether a teacher's boxes come with them. With `cycle` only that many different
    batches are used; on a CPU they are prepared in this process, because the processor time of
    other processes is not measured.
    """
    device = session.torch_device()
    pictures = in_step(data, config, objective)
    workers = 0 if cycle is not None and device.type == "cpu" else config.workers

    def batches(first: int, count: int) -> Iterator[Batch]:
        return training_batches(
            data,
            batch=pictures.labeled,
            seed=seed,
            start_step=first,
            steps=count,
            rank=session.rank,
            world=session.world,
            workers=workers,
            unlabeled_batch=pictures.unlabeled,
            pin=device.type == "cuda",
            device=device,
            cycle=cycle,
            mosaic_until=data.augment.mosaic_steps(total) * config.accumulate,
            views=None if objective is None else objective.views,
            taught=None if objective is None else objective.taught,
        )

    return batches


def furnish(
    session: Session,
    folder: Path,
    trained: Trained,
    record: Mapping[str, object],
    precision: Precision,
    metadata: ModelMetadata | None = None,
) -> None:
    """Write `model.safetensors` and `training.json`, in the first process only."""

    def write(partial: Path) -> None:
        if metadata is None:
            save_weights(trained.state, partial / "model.safetensors")
        else:
            save_model(trained.state, metadata, partial / "model.safetensors")
        write_json(record, partial / "training.json")

    if session.rank == 0:
        once(folder, write)
    session.fabric(precision).barrier()
