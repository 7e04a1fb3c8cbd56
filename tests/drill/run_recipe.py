"""The tiny recipe and data set of the runs that the drill of kills disturbs."""

import json
from pathlib import Path

import yaml

from tests.compress.smoke import SMOKE
from tests.drill.data_sets import write_set

_CHANGES = (
    ("  train: {epochs: 1,", "  train: {epochs: 3,"),
    ("train: {steps: 4,", "baseline: {equal_time: true}\ntrain: {steps: 8, workers: 1,"),
    ("precisions: [fp32]", "precisions: [fp32, int8]"),
    ("repeats: 1", "repeats: 2"),
)


def write_recipe(folder: Path, seed: int, *, small: bool, taught: bool = False) -> Path:
    """Write the data set and the recipe, which passes through every stage, into `folder`.

    Args:
        folder: of both.
        seed: of the data set.
        small: whether one detector is trained alone and exported in fp32 alone.
        taught: whether the teacher's outputs are stored before the student trains.
    """
    data = write_set("coco", folder / "data", seed)
    text = SMOKE
    section = text[text.index("  type: shapes") : text.index("teacher:")]
    own = f"  type: folder\n  root: {json.dumps(str(data.root))}\n  image_size: 64\n"
    text = text.replace(section, f"{own}  augment: {{flip: 0.5}}\n")
    for before, after in _CHANGES:
        assert before in text, before
        text = text.replace(before, after)
    if taught:
        text += "teach: {views: 2}\n"
    if small:
        text = _alone(text)
    recipe = folder / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    return recipe


def _alone(text: str) -> str:
    """Return the recipe of the student without teacher, baseline, INT8 and fresh processes."""
    tree = yaml.safe_load(text)
    for key in ("teacher", "distill", "baseline"):
        del tree[key]
    tree["export"]["precisions"] = ["fp32"]
    tree["benchmark"]["repeats"] = 1
    return yaml.safe_dump(tree, sort_keys=False)
