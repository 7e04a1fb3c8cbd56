"""Rules over several settings: broken in the file or by an override, they name what broke them."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from compress.recipe import Recipe
from compress.recipe_file import read_source
from compress.run import main
from tests.architecture.sources import tree_of
from tests.compress.smoke import SMOKE

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("benchmarks", "compress")

ALONE = "teacher=null"  # with this setting a recipe has neither teacher nor distill
SSD = "student={type: ssd, backbone: resnet18}"
YOLO = "student={type: yolo, model: yolo11n}"
FILE = "teacher={type: predictions, file: results.json}"
PSEUDO = "distill=[{type: pseudo_labels}]"
IKD = "distill=[{type: ikd, base: {type: defeat}}]"
LOADED = ["teacher.train=null", "teacher.detector.weights=x.safetensors"]
TEACHER = "teacher={detector: {type: gfl, backbone: resnet18}, train: {epochs: 1}}"
UNLABELED = "data.unlabeled={count: 8}"

# name of the function that states rules -> for each of them: settings that break it, the last straw
# first, and the setting that a message names
RULES: dict[str, list[tuple[list[str], str]]] = {
    "_one_source": [
        (["teacher.detector.weights=x.safetensors"], "teacher.train"),
        (["teacher.data={type: shapes, image_size: 64}", *LOADED], "teacher.data"),
        (["teacher.classes=[a]"], "teacher.classes"),
        (["teacher.classes=[a, a]", *LOADED], "teacher.classes"),
    ],
    "_one_name": [(["export.calibration.images=4"], "export.calibration.images")],
    "_fp32_is_the_reference": [
        (["export.precisions=[fp32, fp32]"], "export.precisions"),
        (
            ["export.score_threshold=0.01", "export.evaluation_score_threshold=0.1"],
            "export.evaluation_score_threshold",
        ),
        (["export.precisions=[int8]"], "export.precisions"),
    ],
    "_needs_a_teacher": [(["teacher="], "distill")],
    "_a_teacher_teaches": [([TEACHER, ALONE], "teacher")],
    "_only_a_network_is_copied_or_stored": [
        (["inherit=neck+head", FILE, PSEUDO], "inherit"),
        (["teach={views: 2}", FILE, PSEUDO], "teach"),
    ],
    "_a_graph_takes_the_batch": [(["benchmark.batch=2"], "benchmark.batch")],
    "_gates_need_a_reference": [
        (["gates.max_ap_drop=1"], "gates"),
        (["gates.reference=x.json"], "gates"),
    ],
    "_no_loss_twice": [(["distill.1={type: defeat}"], "distill[1]")],
    "_every_seed_is_one": [(["seeds=2", "seed=4294967295"], "seed")],
    "_one_length": [
        (["train.steps=null"], "train.steps"),
        (["train.milestones=[0.9, 0.1]"], "train.milestones"),
        (["train.weight_decay=10", "train.lr=1"], "train.lr"),
    ],
    "_check_size": [
        (["data.image_size=65"], "data.image_size"),
        (["data.train.rest=true"], "data.train.rest"),
        (["data.augment.transpose=1", "data.image_size=[64, 96]"], "data.augment.transpose"),
    ],
    "_check_shares": [
        (
            [
                "data.split.test=0.5",
                "data={type: folder, root: x, image_size: 64, split: {val: 0.6}}",
            ],
            "data.split.val",
        )
    ],
    "_in_order": [(["distill.0.warmup=1", "distill.0.start=0.5"], "distill[0].start")],
    "_one_schedule": [(["distill.0.base.end=0.5", IKD], "distill[0].base.end")],
    "_bands_in_order": [(["distill.0.learn=0.05", PSEUDO], "distill[0].learn")],
    "_own_scales": [
        (["student.anchor_scale=4", SSD], "student.anchor_scale"),
        (["student.min_scale=0.95", SSD], "student.min_scale"),
    ],
    "_one_start": [
        (["student.transfer=b.safetensors", "student.weights=a.safetensors"], "student.weights")
    ],
    "_fits_the_backbone": [
        (["student.backbone=timm/resnet18"], "student.norm"),
        (["student.backbone_weights=timm"], "student.backbone_weights"),
        (["student.backbone_weights=torchvision"], "student.backbone_weights"),
    ],
    "_has_the_branch": [(["student.head=one2one", YOLO], "student.head")],
    "_ends": [
        (
            ["benchmark.repeats=100", "benchmark.blocks=10000", "benchmark.calls_per_block=1000"],
            "benchmark.calls_per_block",
        )
    ],
}
# the same for rules that are checked against data and models
CHECKS: list[tuple[list[str], str]] = [
    (["train.labeled_batch=9", UNLABELED], "train.labeled_batch"),
    (["data.unlabeled=null", "train.labeled_batch=2"], "train.labeled_batch"),
    (["data.unlabeled.count=3", UNLABELED, "train.unlabeled_batch=4"], "data.unlabeled"),
    (["train.unlabeled_batch=9", UNLABELED], "data.unlabeled"),
    (["teacher.train.labeled_batch=2"], "teacher.train.labeled_batch"),
    (["distill=[]", "teach={views: 2}"], "teach"),
    (["teach={views: 2}", ALONE], "teach"),
    ([UNLABELED, ALONE], "data.unlabeled"),
    (["data.unlabeled.rest=true", UNLABELED], "data.unlabeled"),
    (["train.accumulate=9", "train.epochs=1"], "train.accumulate"),
    (["train.epochs=1", "train.accumulate=9"], "train.accumulate"),
    (["train.batch=9"], "train.batch"),
    (["data.train.limit=3"], "train.batch"),
    (["teacher.train.batch=9"], "teacher.train.batch"),
    (["data.train.limit=13"], "data.train.limit"),
    (
        ["data.image_size=96", "teacher.data={type: shapes, image_size: 64}"],
        "teacher.data.image_size",
    ),
    (["student.width=32", "inherit=neck+head"], "inherit"),
    (["inherit=neck+head", "student.width=32"], "inherit"),
    (["export.nms=none"], "export.nms"),
    (["export.quantization.keep_float=[nothing]"], "export.quantization.keep_float[0]"),
    (["train.freeze_at=16"], "train.freeze_at"),
    (["train.norm_eval=true"], "train.norm_eval"),
    (["student.reg_max=8", "distill=[{type: ld}]"], "distill[0]"),
    (["teacher.detector.reg_max=8", "distill=[{type: ld}]"], "distill[0]"),
    (["distill.0.type=pkd", FILE, PSEUDO], "distill[0]"),
    (["gates={reference: nowhere, max_ap_drop: 1}"], "gates.reference"),
]
CASES = [
    pytest.param(settings, key, id=f"{name}-{number}")
    for name, rules in (*RULES.items(), ("checked", CHECKS))
    for number, (settings, key) in enumerate(rules)
]


def recipe_of(folder: Path, settings: list[str]) -> Path:
    """Write a recipe that has the settings in its file."""
    tree = yaml.safe_load(SMOKE)
    if ALONE in settings:
        tree = {key: value for key, value in tree.items() if key not in {"teacher", "distill"}}
    given = [one for one in reversed(settings) if one != ALONE]
    tree = read_source(Recipe, None, yaml.safe_dump(tree), given).tree
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def mistakes(recipe: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Check a recipe that is wrong; return the lines of the message."""
    arguments = [str(recipe), "--check", "--runs", str(recipe.parent / "runs"), *overrides]
    assert main(arguments) in {2, 3}
    (message,) = capsys.readouterr().err.split("error: ")[1:]
    return message.splitlines()


def raised(function: ast.FunctionDef) -> list[str]:
    """Return the names of the errors that a function raises."""
    raises = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise)]
    return [ast.unparse(error).partition("(")[0] for error in raises if error is not None]


def validators() -> dict[str, list[str]]:
    """Return the errors of every function that checks a whole section or raises a `ClashError`."""
    found = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(tree_of(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            decorators = [ast.unparse(one) for one in node.decorator_list]
            errors = raised(node)
            if "ClashError" in errors or any("model_validator" in one for one in decorators):
                found[node.name] = errors
    return found


def test_every_rule_over_settings_is_tried() -> None:
    found = validators()
    assert {name: len(errors) for name, errors in found.items()} == {
        name: len(rules) for name, rules in RULES.items()
    }
    assert {error for errors in found.values() for error in errors} == {"ClashError"}


@pytest.mark.parametrize(("settings", "key"), CASES)
def test_a_file_that_breaks_a_rule_is_named_with_the_line_of_the_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], key: str
) -> None:
    recipe = recipe_of(tmp_path, settings)
    lines = mistakes(recipe, [], capsys)
    places = [
        re.match(rf"{re.escape(str(recipe))}:(\d+): {re.escape(key)}: ", line) for line in lines
    ]
    numbers = [int(place[1]) for place in places if place is not None]
    assert numbers, lines
    written = recipe.read_text(encoding="utf-8").splitlines()[numbers[0] - 1]
    name = re.split(r"[.\[]", key)[-1]
    assert written.strip().startswith("- " if name.endswith("]") else f"{name}:"), written


@pytest.mark.parametrize(("settings", "key"), CASES)
def test_an_override_that_breaks_a_rule_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], key: str
) -> None:
    last, *before = settings
    lines = mistakes(recipe_of(tmp_path, before), [last], capsys)
    assert any(
        (f"command line: {last}" in line and f": {key}: " in line)
        or (f": {key} (" in line and f"{last} of the command line): " in line)
        for line in lines
    ), lines
