"""Recipes of the short trainings of an acceptance, and the folder of drawn JPEG files."""

import os
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.data.image_set import coco_ground_truth, read_photograph
from benchmarks.data.shapes import shapes_set
from compress.console import Console
from compress.pipeline import prepare
from compress.recipe import read_recipe
from compress.stages.opened import Run
from export.atomic import write_json

JPEG = (480, 640)  # height and width of the drawn files, pixels
AUGMENT = {"flip": 0.5, "scale": [0.7, 1.4], "color": 0.3}
MOST_WORKERS = 12
Settings = dict[str, Any]


def opened(settings: Settings, runs: Path, device: str) -> Run:
    """Check a recipe and open its run in `runs`, as `slimdet run` does."""
    recipe, source = read_recipe(settings)
    run, _ = prepare(recipe, source, runs, device, Console(quiet=True))
    return run


def drawn(name: str, family: str, amp: str, *, size: int, steps: int, batch: int) -> Settings:
    """Return a recipe in which a teacher is trained on drawn pictures and teaches a student."""
    train = {
        "steps": steps,
        "batch": batch,
        "amp": amp,
        "evaluations": 1,
        "measure_every": 0,
        "lr": 1e-3,
    }
    detector = {"type": family, "backbone": "resnet18", "width": 64}
    return {
        "schema": 1,
        "name": name,
        "data": {
            "type": "shapes",
            "image_size": size,
            "train": {"count": 8 * batch},
            "val": {"count": 8},
            "augment": {"flip": 0.5},
        },
        "teacher": {"detector": {**detector}, "train": {**train}},
        "student": {**detector},
        "distill": [{"type": "pkd", "weight": "auto"}, {"type": "defeat", "weight": "auto"}],
        "baseline": {"enabled": False},
        "train": train,
        "track": [],
    }


def photographed(name: str, data: Path, *, size: int, steps: int, batch: int) -> Settings:
    """Return a recipe of a GFL, ResNet-50 to ResNet-18, on the photographs of a folder."""
    settings = drawn(name, "gfl", "bf16", size=size, steps=steps, batch=batch)
    settings["data"] = {
        "type": "folder",
        "root": str(data),
        "image_size": size,
        "augment": AUGMENT,
    }
    settings["teacher"]["detector"] = {"type": "gfl", "backbone": "resnet50"}
    settings["student"] = {"type": "gfl", "backbone": "resnet18"}
    settings["baseline"] = {"enabled": True}
    for train in (settings["train"], settings["teacher"]["train"]):
        train |= {"workers": workers(), "evaluations": 2}
    return settings


def workers() -> int:
    """Return how many processes prepare pictures here."""
    usable = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if usable else os.cpu_count() or 1
    return min(MOST_WORKERS, max(1, cores - 2))


def write_jpegs(folder: Path, count: int) -> Path:
    """Write drawn pictures as a COCO data set of JPEG files; return the folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, number in (("train", count), ("val", 8)):
        images = shapes_set(split, range(number), *JPEG, seed=0, difficulty="standard")
        truth = coco_ground_truth(images)
        for index, image in enumerate(truth["images"]):
            image["file_name"] = f"{split}{index}.jpg"
            pixels = Image.fromarray(read_photograph(images, index))
            pixels.save(folder / "images" / image["file_name"], quality=90)
        write_json(truth, folder / f"{split}.json")
    return folder
