"""Recipes that are wrong in form, and values that are right as users type them."""

import os
import pickle
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel

from compress.recipe import Recipe, load_recipe, read_recipe
from compress.recipe_file import complete_text
from compress.run import main
from export.errors import RecipeError
from tests.compress.smoke import SMOKE, write_smoke

FOREIGN = ("pydantic", "Input should", "should be", "http", "Traceback", "Error", "errno", "Errno")


def mistake(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    said = str(caught.value)
    assert not any(word in said for word in FOREIGN), said
    return said


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + SMOKE.encode(),
        SMOKE.replace("\n", "\r\n").encode(),
        SMOKE.replace("\n", "\r").encode(),
        SMOKE.encode("utf-16"),
        SMOKE.encode("utf-32"),
    ],
    ids=["mark", "crlf", "cr", "utf-16", "utf-32"],
)
def test_a_recipe_may_have_any_mark_and_line_end(tmp_path: Path, content: bytes) -> None:
    assert load_recipe(written(tmp_path, content))[0] == load_recipe(write_smoke(tmp_path))[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"name: a\nseed: \xff\n", ":2: holds the byte 0xff, which is not UTF-8 text"),
        ("name: a\n".encode("utf-16-le"), ":1: holds the control character U+0000"),
        (b"[1, 2]", ":1: a recipe is a mapping of sections, found a list of 2 entries"),
        (b"x" * 400_001, "holds 400001 bytes"),
    ],
)
def test_a_file_that_is_no_text_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in mistake(written(tmp_path, content))


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    assert "is a folder" in mistake(tmp_path)
    assert "no such recipe file" in mistake(tmp_path / "none.yaml")
    assert "cannot be read" in mistake(tmp_path / ("x" * 300))
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert "is no regular file" in mistake(pipe)
    assert "is no regular file" in mistake(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.amp=off", "off"),
        ("export.nms=host", "host"),
        ("export.calibration.method=minmax", "minmax"),
        ("inherit=none", "none"),
        ("name=2024", "2024"),
        ("name=on", "on"),
        ("name=1e3", "1e3"),
        ("name=0o17", "0o17"),
        ("name=true", "true"),
        ("data.train.split=2017", "2017"),
        ("baseline.enabled=off", False),
        ("baseline.enabled=No", False),
        ("baseline.enabled=false", False),
        ("export.dynamic_batch=on", True),
        ("export.dynamic_batch=yes", True),
        ("name=1_000", "1_000"),
        ("seed=0x1F", 31),
        ("train.lr=1e1", 10.0),
        ("seed=0o17", 15),
        ("train.lr=1e-3", 0.001),
        ("train.lr=1", 1.0),
        ("data.root=5", "5"),
        ("data.classes=[no, 1, 1.50, y]", ("no", "1", "1.50", "y")),
        ("gates={reference: 7, max_p50: +5%}", ("7", "+5%")),
    ],
)
def test_values_work_as_users_type_them(tmp_path: Path, override: str, value: object) -> None:
    path = write_smoke(tmp_path)
    keys = override.partition("=")[0].split(".")
    others = []
    if keys[-1] in {"root", "classes"}:
        others = ["data={type: folder, root: here, image_size: 64}"]
    recipe, source = load_recipe(path, [*others, override])
    found: object = recipe
    for key in keys:
        found = getattr(found, key)
    if override.startswith("gates"):
        assert recipe.gates is not None
        found = (str(recipe.gates.reference), recipe.gates.max_p50)
    assert (str(found) if isinstance(found, Path) else found) == value
    in_file = written(tmp_path, complete_text(source).encode())
    assert load_recipe(in_file)[0] == recipe


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.=1", "'train.=1' is no override"),
        ("=1", "'=1' is no override"),
        (".=1", "'.=1' is no override"),
        ("a..b=1", "'a..b=1' is no override"),
        ("train. lr=1", "is no override"),
        (".".join("a" * 40) + "=1", "is no override"),
        ("train", "is no override"),
        ("train=1", "train: expected a section of keys and values, found 1"),
        ("trian.lr=1", "trian: unknown key; did you mean 'train'"),
        ("distill.²=1", "there is no distill.²"),
        ("distill." + "9" * 5000 + "=1", "there is no distill.999"),
        ("distill.-1=1", "there is no distill.-1"),
        ("data.unlabeled=[[]]", "data.unlabeled: expected a section"),
        ("data.image_size=[64]", "expected a whole number or [height, width], found [64]"),
        ("data.image_size=[64,64,64]", "or [height, width], found [64, 64, 64]"),
        ("data.image_size=[[64,64]]", "or [height, width], found [[64, 64]]"),
        ("data.image_size={a: 1}", 'or [height, width], found {"a": 1}'),
        ("data.image_size=null", "or [height, width], found nothing (null)"),
        ("data.image_size=[64,1]", "data.image_size[1]: expected at least 32, found 1"),
        ("student.strides=[[8]]", "student.strides[0]: expected a whole number"),
        ("distill.0.weight=[1]", "weight: expected a number or auto, found [1]"),
        ("distill.0.weight={a: 1}", 'weight: expected a number or auto, found {"a": 1}'),
        ("gates={max_p50: [5]}", "max_p50: expected text or a number, found [5]"),
        ("data.image_size=x", "data.image_size: expected a whole number"),
        ("seed=" + "9" * 5000, "a number of 5000 digits"),
        ("seed=017", "write 17"),
        ("seed=1_000", "write 1000, without underscores"),
        ("train.lr=1_0.5e-1", "write 10.5e-1, without underscores"),
        ("seed='1_0'", "write 10, without underscores"),
        ("seed=0b101", 'expected a whole number, found "0b101"; write 5'),
        ("train.steps=1e3", "expected a whole number, found 1000.0; write 1000"),
        ("train.lr=1:30", 'expected a number, found "1:30"'),
        ("train.lr=1,5", 'expected a number, found "1,5"'),
        ("export.max_detections=\uff11", "expected a whole number"),
        ("seed=1:30", 'expected a whole number, found "1:30"'),
        ("seed=.nan", "expected a finite number"),
        ("seed=true", "expected a whole number, found true"),
        ("schema=true", "expected 1, the version of recipes, found true"),
        ("schema=1.0", "expected 1, the version of recipes, found 1.0"),
        ("name=&a [*a]", "contains itself"),
        ("name=a: b", "name: expected text, found a section of 1 key"),
        ('name="\\e[31m"', "the control character U+001B"),
        ("\x1b[31m=1", r"\x1b[31m: unknown key"),
        ("train.amp=yes", "'yes' is not one of the allowed values"),
        ("distill=5", "distill: expected a list, found 5"),
        ("distill=[5]", "distill[0]: expected a section"),
        ("teacher=[[]]", "teacher[0]: expected a section"),
        ("student=resnet18", 'student: expected a section of keys and values, found "resnet18"'),
    ],
)
def test_an_override_that_does_not_fit_says_why(tmp_path: Path, override: str, said: str) -> None:
    found = mistake(write_smoke(tmp_path), override)
    assert found.startswith("command line: ")
    assert said in found
    assert len(found) < 1000


def test_the_rest_of_another_drawn_split_is_refused(tmp_path: Path, capsys) -> None:
    recipe = write_smoke(tmp_path)
    assert main([str(recipe), "--check", "data.unlabeled={rest: true}"]) == 2
    said = capsys.readouterr().err
    assert "data.unlabeled: rest: the drawn split unlabeled holds none" in said
    assert said.count("\n") == 1


def test_at_most_twenty_mistakes_are_listed(tmp_path: Path) -> None:
    text = SMOKE + "".join(f"key{number}: 1\n" for number in range(500))
    lines = mistake(written(tmp_path, text.encode())).splitlines()
    assert (len(lines), lines[-1]) == (21, "and 480 more mistakes")


def test_settings_given_in_python_may_not_hold_themselves_or_explode() -> None:
    loop: dict[str, object] = {"schema": 1}
    loop["data"] = loop
    with pytest.raises(RecipeError, match="data: contains itself"):
        read_recipe(loop)
    bomb: list[object] = ["x"]
    for _ in range(10):
        bomb = [bomb] * 10
    with pytest.raises(RecipeError, match="holds more than 100000 characters"):
        read_recipe({"name": bomb})
    deep: list[object] = []
    chain = {}
    for number in range(1000):
        deep = [deep]
        chain[str(number)] = deep
    with pytest.raises(RecipeError, match="nested more than 32 levels"):
        read_recipe(chain)
    with pytest.raises(RecipeError, match="1 stands as a key"):
        read_recipe({"data": {1: 2}})
    with pytest.raises(RecipeError, match="name: holds the control character"):
        read_recipe({"name": "\0"})
    with pytest.raises(RecipeError, match="more than 40 digits"):
        read_recipe({"seed": 10**5000})


@pytest.mark.parametrize(
    "override",
    [
        "train.epochs=100000000000",
        "train={steps: 100000000000}",
        "train.workers=100000",
        "train.lr=1e30",
        "train.batch=1000000",
        "seed=18446744073709551616",
        "seeds=1000000",
        "data.image_size=100000",
        "data.train.count=1000000",
        "data.cache_gib=1e300",
        "teacher.detector.backbone.stem=100000",
        "student.backbone.widths=[16, 16, 16, 1000000]",
        "student.width=1000000",
        "export.max_detections=100000000",
        "benchmark.repeats=100000",
        "benchmark.throughput_batches=[1, 1000000]",
        "distill.0.weight=1e30",
    ],
)
def test_numbers_beyond_any_training_are_refused_with_the_bound(
    tmp_path: Path, override: str
) -> None:
    said = mistake(write_smoke(tmp_path), override)
    assert "expected at most " in said
    assert "\n" not in said


def test_a_precision_stands_once(tmp_path: Path) -> None:
    said = mistake(write_smoke(tmp_path), "export.precisions=[fp32, fp32]")
    assert "precisions names each one once" in said


def numbers(annotation: object, metadata: tuple[object, ...], seen: set[object]) -> list[str]:
    """Return the numeric settings below an annotation that lack a lower or an upper bound."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return numbers(inner, (*metadata, *more), seen)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation in seen:
            return []
        seen.add(annotation)
        return [
            f"{annotation.__name__}.{name} {problem}".strip()
            for name, field in annotation.model_fields.items()
            for problem in numbers(field.annotation, tuple(field.metadata), seen)
        ]
    if origin is not None and origin is not Literal:
        own = () if origin in {tuple, list} else metadata
        return [p for arg in get_args(annotation) for p in numbers(arg, own, seen)]
    if annotation not in {int, float}:
        return []
    limits = [one for entry in metadata for one in (*getattr(entry, "metadata", []), entry)]
    lower = any(hasattr(one, "ge") or hasattr(one, "gt") for one in limits)
    upper = any(hasattr(one, "le") or hasattr(one, "lt") for one in limits)
    return [] if lower and upper else [""]


def test_every_number_of_a_recipe_has_two_bounds() -> None:
    unbounded = numbers(Recipe, (), set())
    assert [name for name in unbounded if not name.startswith("Recipe.gates")] == []


@pytest.mark.slow
def test_weights_are_looked_into_at_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_smoke(tmp_path)
    named = {
        "text.pth": b"root:x:0:0\n",
        "empty.pt": b"",
        "cut.safetensors": b"\xff\0\0\0\0\0\0\0{}",
        "pickle.pt": pickle.dumps(Path("x")),
    }
    for name, content in named.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    files = {
        "/etc/passwd": (2, "must be a .safetensors, .pt or .pth file"),
        str(tmp_path): (2, "is a folder"),
        str(tmp_path / "none.pt"): (2, "there is no such file"),
        str(tmp_path / "other.pth"): (2, "these are not the weights of this gfl:"),
        str(tmp_path / "text.pth"): (3, "cannot be read as"),
        str(tmp_path / "empty.pt"): (3, "is empty; fetch or save it again"),
        str(tmp_path / "cut.safetensors"): (3, "cannot be read as"),
        str(tmp_path / "pickle.pt"): (2, "refused"),
    }
    for file, (code, said) in files.items():
        keys = ["student.weights", "teacher.detector.backbone_weights"]
        for key in keys if "other" not in file else keys[:1]:
            assert main([str(recipe), "--check", f"{key}={file}"]) == code, file
            told = capsys.readouterr().err
            assert told.startswith(f"error: command line: {key}={file}"[:90]), told
            assert f": {file}: " in told
            assert said in told
            assert told.count("\n") == 1


@pytest.mark.slow
def test_a_model_larger_than_the_machine_is_told_before_it_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_smoke(tmp_path)
    assert main([str(recipe), "--check", "data.image_size=8192", "student.width=4096"]) == 2
    told = capsys.readouterr().err
    assert "a training step on one picture of 8192 x 8192 takes about" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (["seed=4294967295", "seeds=2"], "the 2 seeds from it on pass 4294967295"),
        (["distill=[{type: pkd}, {type: pkd}]"], "distill[1]: entries 0 and 1 are equal"),
        (["benchmark.throughput_batches=[1, 1]"], "1 is there twice; name each once"),
        (["train.unlabeled_batch=4"], "there are no pictures without labels"),
        (["train.labeled_batch=2"], "there are no pictures without labels"),
        (["teacher.train.labeled_batch=2"], "a teacher learns from labels alone"),
        (["train.gamma=5"], "expected at most 1, found 5"),
        (["student={weights: none.safetensors}"], "none.safetensors: there is no such file"),
        (["student={weights: recipe.safetensors}"], "is not a whole safetensors file"),
        (["distill[7].weight=1"], "numbered from 0; there is no distill.7"),
    ],
)
def test_what_contradicts_itself_is_refused_at_check(
    override: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.safetensors").write_bytes(b"no tensors")
    assert main([str(write_smoke(tmp_path)), "--check", *override]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_an_entry_of_a_list_is_overridden_in_the_form_of_messages(tmp_path: Path) -> None:
    path = write_smoke(tmp_path)
    written = load_recipe(path, ["distill[1].weight=3", "data.val.count=2"])[0]
    assert written == load_recipe(path, ["distill.1.weight=3", "data.val.count=2"])[0]
    assert written.distill[1].weight == 3
