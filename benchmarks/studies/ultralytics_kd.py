"""Distillation of YOLO beside Ultralytics' own: `python -m benchmarks.studies.ultralytics_kd`.

The same teacher file, the same initial student weights of each seed, the same pictures and the same
number of steps of AdamW with the same learning rate, decay and cosine; flips alone as augmentation.
Ultralytics trains by its own trainer (`distill_model`, its moving average of the weights, its
BatchNorm momentum of 0.03), slimdet by `python -m compress.run`. All final weights are judged by
one evaluator: COCO AP of the network in torch on all validation pictures, by pycocotools' rules.
Finished trainings are kept, so that the same command resumes after an interruption.
"""

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.evaluate import predict
from benchmarks.data.coco import read_coco_split
from benchmarks.data.image_set import ImageSet, coco_ground_truth
from benchmarks.studies.gain_table import gain
from benchmarks.studies.ultralytics_files import (
    describe,
    export_pt,
    random_yolo,
    started,
    write_both,
)
from benchmarks.timing.environment import environment
from compress.parts.weights import count_parameters, load_weights
from compress.stages.model_file import load_detector
from compress.stages.torch_engine import TorchEngine
from export.artifact.manifest import NmsSpec
from export.atomic import write_json

OURS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "pkd + bckd": [{"type": "pkd", "weight": "auto"}, {"type": "bckd", "weight": "auto"}],
    "bckd + ld": [{"type": "bckd", "weight": "auto"}, {"type": "ld", "weight": "auto"}],
}
THEIRS = ("ultralytics plain", "ultralytics kd")
ORDER = ("plain", *THEIRS, *(name for name in OURS if name != "plain"))


@dataclass(frozen=True)
class Study:
    """What all trainings share.

    Attributes:
        home: folder of all files.
        data: folder with train.json, val.json and images/.
        teacher: safetensors of a trained YOLO of slimdet.
        student: name of the student's network.
        labels: how many training pictures are used.
        size: side of the input in pixels.
        steps: number of steps of every training.
        batch: pictures per step.
        lr: learning rate of AdamW.
    """

    home: Path
    data: Path
    teacher: Path
    student: str
    labels: int
    size: int
    steps: int
    batch: int
    lr: float

    @property
    def set(self) -> Path:
        """Folder of the pictures that are trained on, in both formats."""
        return self.home / f"data{self.labels}"

    def prepare(self) -> None:
        """Write the data in both formats and the teacher as a .pt."""
        if not (self.set / "data.yaml").exists():
            _write_data(self.data, self.set, self.labels)
        if not self.teacher_pt.exists():
            export_pt(self.teacher, self.teacher_pt)

    @property
    def teacher_pt(self) -> Path:
        """The teacher for Ultralytics."""
        return self.home / "teacher.pt"

    def initial(self, seed: int) -> tuple[Path, Path]:
        """Return a seed's random student as .safetensors and as .pt."""
        ours, theirs = (self.home / f"initial{seed}{end}" for end in (".safetensors", ".pt"))
        if not theirs.exists():
            metadata = load_detector(self.teacher).metadata
            detector = random_yolo(self.student, len(metadata.classes), self.size, seed)
            manifest = metadata.manifest.model_copy(
                update={"model": self.student, "parameters": count_parameters(detector)}
            )
            write_both(detector, manifest, ours)
        return ours, theirs

    def train_ours(self, name: str, seed: int) -> Path:
        """Train with slimdet; return the weights."""
        folder = f"{_plain(name)}-{self.labels}-{seed}"
        weights = (
            self.home / "runs" / folder / "models" / f"seed{seed}-student" / "model.safetensors"
        )
        if weights.exists():
            return weights
        recipe: dict[str, Any] = {
            "schema": 1,
            "name": folder,
            "seed": seed,
            "data": {
                "type": "folder",
                "root": str(self.set),
                "format": "coco",
                "image_size": [self.size, self.size],
                "augment": {"flip": 0.5},
            },
            "student": {"weights": str(self.initial(seed)[0])},
            "train": {
                "steps": self.steps,
                "batch": self.batch,
                "lr": self.lr,
                "weight_decay": 5e-4,
                "schedule": "cosine",
                "evaluations": 1,
                "workers": 0,
            },
            "export": {"precisions": ["fp32"], "parity_images": 1},
            "benchmark": {
                "blocks": 2,
                "calls_per_block": 2,
                "warmup": 1,
                "images": 2,
                "throughput_batches": [],
                "repeats": 1,
            },
            "track": [],
        }
        if OURS[name]:
            recipe["teacher"] = {"detector": {"weights": str(self.teacher)}}
            recipe |= {"distill": OURS[name], "baseline": {"enabled": False}}
        file = self.home / f"{folder}.yaml"
        file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        started("-m", "compress.run", str(file), "--runs", str(self.home / "runs"))
        return weights

    def train_theirs(self, name: str, seed: int) -> Path:
        """Train with Ultralytics' trainer; return its checkpoint."""
        folder = f"{_plain(name)}-{self.labels}-{seed}"
        weights = self.home / "ultralytics" / folder / "weights" / "last.pt"
        done = self.home / f"{folder}.json"
        if done.exists():
            return weights
        per_epoch = self.labels // self.batch
        settings: dict[str, Any] = {
            "model": str(self.initial(seed)[1]),
            "data": str(self.set / "data.yaml"),
            "imgsz": self.size,
            "batch": self.batch,
            "nbs": self.batch,  # a step of the optimiser after every batch
            "epochs": self.steps // per_epoch,
            "optimizer": "AdamW",
            "lr0": self.lr,
            "lrf": 0.01,
            "cos_lr": True,
            "weight_decay": 5e-4,
            "warmup_epochs": 0.15 * self.steps / per_epoch,
            "warmup_bias_lr": 0.0,
            "seed": seed,
            "device": "cpu",
            "workers": 0,
            "amp": False,
            "plots": False,
            "val": False,
            "verbose": False,
            "exist_ok": True,
            "project": str(self.home / "ultralytics"),
            "name": folder,
            **dict.fromkeys(
                ("mosaic", "scale", "translate", "hsv_h", "hsv_s", "hsv_v", "erasing"), 0.0
            ),
        }
        if name == "ultralytics kd":
            settings["distill_model"] = str(self.teacher_pt)
        file = self.home / f"{folder}.settings.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        said = started("-m", "benchmarks.studies.ultralytics_train", str(file))
        done.write_text(said.strip().splitlines()[-1], encoding="utf-8")
        return weights

    def ap(self, weights: Path, images: ImageSet) -> float:
        """Return the AP of weights on the validation pictures."""
        known = load_detector(self.teacher).metadata
        classes = dict(zip(known.manifest.category_ids, known.classes, strict=True))
        detector = random_yolo(self.student, len(classes), self.size, seed=0)
        load_weights(detector, weights, strict=True, what="student")
        nms = NmsSpec(iou=0.6, max_detections=100)
        manifest = describe(detector, self.student, classes, nms, dynamic=True)
        with TorchEngine(detector.eval(), manifest, torch.device("cpu")) as engine:
            found = coco_map(predict(engine, images, batch=16), coco_ground_truth(images))
        ap = found.values["AP"]
        return 0.0 if ap is None else 100 * ap


def _plain(name: str) -> str:
    return name.replace(" + ", "-").replace(" ", "-")


def _write_data(source: Path, out: Path, labels: int) -> None:
    """Write every k-th training picture, and all validation pictures, as COCO and as YOLO."""
    names: list[str] = []
    for split in ("train", "val"):
        content = json.loads((source / f"{split}.json").read_text(encoding="utf-8"))
        if split == "train":
            every = len(content["images"]) / labels
            content["images"] = [content["images"][int(k * every)] for k in range(labels)]
        kept = {image["id"]: image for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        (out / "images" / split).mkdir(parents=True, exist_ok=True)
        (out / "labels" / split).mkdir(parents=True, exist_ok=True)
        places = {category["id"]: k for k, category in enumerate(content["categories"])}
        names = [category["name"] for category in content["categories"]]
        lines: dict[int, list[str]] = {key: [] for key in kept}
        for one in content["annotations"]:
            image, (x, y, w, h) = kept[one["image_id"]], one["bbox"]
            across, down = image["width"], image["height"]
            lines[one["image_id"]].append(
                f"{places[one['category_id']]} {(x + w / 2) / across} {(y + h / 2) / down} "
                f"{w / across} {h / down}"
            )
        for key, image in kept.items():
            name = Path(image["file_name"]).name
            shutil.copy(source / "images" / image["file_name"], out / "images" / split / name)
            label = out / "labels" / split / Path(name).with_suffix(".txt")
            label.write_text("\n".join(lines[key]), encoding="utf-8")
            image["file_name"] = f"{split}/{name}"
        (out / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    described = {"path": str(out.resolve()), "train": "images/train", "val": "images/val"}
    (out / "data.yaml").write_text(
        yaml.safe_dump({**described, "names": dict(enumerate(names))}), encoding="utf-8"
    )


def table(found: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return AP of every method and its gain over the plain training of the same trainer."""
    rows: dict[str, Any] = {}
    for name, aps in found.items():
        plain = found["plain" if name in OURS else THEIRS[0]]
        paired = gain([one / 100 for one in aps], [one / 100 for one in plain[: len(aps)]])
        rows[name] = {"ap": list(aps), "gain": paired}
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Train all of one number of labels and write the figures after every training."""
    options = _parser().parse_args(arguments)
    options.home.mkdir(parents=True, exist_ok=True)
    study = Study(
        home=options.home.resolve(),
        data=options.data.resolve(),
        teacher=options.teacher.resolve(),
        student=options.student,
        labels=options.labels,
        size=options.size,
        steps=options.steps,
        batch=options.batch,
        lr=options.lr,
    )
    study.prepare()
    val = read_coco_split(study.set, "val")
    found: dict[str, list[float]] = {}
    seconds: dict[str, Any] = {}
    for names in (ORDER[:-1], ORDER[-1:]):  # the last one only after all seeds of the others
        for seed, name in itertools.product(range(options.seeds), names):
            ours = name in OURS
            train = study.train_ours if ours else study.train_theirs
            found.setdefault(name, []).append(study.ap(train(name, seed), val))
            if not ours:
                file = study.home / f"{_plain(name)}-{study.labels}-{seed}.json"
                seconds[name] = json.loads(file.read_text(encoding="utf-8"))
            sys.stdout.write(f"{name}, seed {seed}: AP {found[name][-1]:.2f}\n")
            sys.stdout.flush()
            settings = {
                key: value
                for key, value in vars(study).items()
                if key not in ("home", "data", "teacher")
            }
            write_json(
                {
                    "settings": settings,
                    "methods": OURS,
                    "results": table(found),
                    "ultralytics_step": seconds,
                    "environment": environment(),
                },
                options.out,
            )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.ultralytics_kd")
    parser.add_argument("--data", type=Path, required=True, help="train.json, val.json, images/")
    parser.add_argument("--teacher", type=Path, required=True, help="model.safetensors of a YOLO")
    parser.add_argument("--home", type=Path, required=True, help="folder of all trainings")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--student", default="yolo11n")
    parser.add_argument("--labels", type=int, default=40, help="training pictures")
    parser.add_argument("--size", type=int, default=128, help="side of the input, pixels")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    return parser


if __name__ == "__main__":
    sys.exit(main())
