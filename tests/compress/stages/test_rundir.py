"""The run folder: finished stages, refusals, atomic files."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from pydantic import JsonValue

from compress.recipe import Recipe, load_recipe
from compress.stages.rundir import (
    check_home,
    differences,
    once,
    open_run,
    owned,
    read_record,
    read_step_ratio,
    require_unused,
)
from export.errors import RecipeError, ToolkitError


def test_a_stage_is_made_once_and_whole(tmp_path: Path) -> None:
    calls = []

    def make(out: Path) -> None:
        calls.append(out)
        (out / "file").write_text("whole")

    for _ in range(2):
        assert (once(tmp_path / "stage", make) / "file").read_text() == "whole"
    assert len(calls) == 1


def test_a_stage_that_fails_leaves_no_folder_and_begins_anew(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        (out / "half").write_text("half")
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        once(tmp_path / "stage", fail)
    assert not (tmp_path / "stage").exists()
    once(tmp_path / "stage", lambda out: (out / "file").touch())
    assert [p.name for p in (tmp_path / "stage").iterdir()] == ["file"]


def test_a_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    def fail(_out: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ToolkitError, match="No space left") as caught:
        once(tmp_path / "stage", fail)
    assert "run the same command again" in str(caught.value)
    assert not (tmp_path / "stage").exists()


def test_a_changed_recipe_under_an_old_name_is_refused(tmp_path: Path) -> None:
    home = open_run(tmp_path, "x", {"train": {"epochs": 12}}, "text")
    assert open_run(tmp_path, "x", {"train": {"epochs": 12}}, "text") == home
    with pytest.raises(RecipeError) as caught:
        open_run(tmp_path, "x", {"train": {"epochs": 24}}, "text")
    assert str(caught.value) == (
        f"{home} was made with train.epochs: 12, the recipe says 24; "
        "choose another name or delete it"
    )


def test_a_run_from_before_an_upgrade_goes_on_when_new_settings_are_at_their_defaults(
    tmp_path: Path,
) -> None:
    recipe, _ = load_recipe(Path("recipes/quickstart.yaml"))
    older = json.loads(json.dumps(recipe.resolved()))
    del older["export"]["nms"]
    home = open_run(tmp_path, "x", older, "text")
    assert home == open_run(tmp_path, "x", recipe.resolved(), "text", Recipe.resolved_anew)
    other, _ = load_recipe(Path("recipes/quickstart.yaml"), ["export.nms=graph"])
    with pytest.raises(RecipeError, match=r"export.nms: \"host\", the recipe says \"graph\""):
        open_run(tmp_path, "x", other.resolved(), "text", Recipe.resolved_anew)
    older["export"]["forgotten"] = 1  # a setting that exists no more
    assert Recipe.resolved_anew(older) == older


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="leads out of"):
        open_run(tmp_path / "runs", "../outside", {}, "")


def test_a_folder_that_is_not_of_a_run_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "x"
    (home / "report").mkdir(parents=True)
    (home / ".lock").touch()
    for look in (check_home, partial(open_run, recipe_text="text")):
        with pytest.raises(RecipeError, match="holds 'report' and is not the folder of a run"):
            look(tmp_path, "x", {"seed": 0})
    assert not (home / "recipe.yaml").exists()
    (home / "report").rmdir()
    assert open_run(tmp_path, "x", {"seed": 0}, "text") == home
    (home / "models").mkdir()
    (home / "recipe.lock.json").unlink()  # as some messages tell
    assert not check_home(tmp_path, "x", {"seed": 1})


def test_differences_name_every_leaf() -> None:
    before: JsonValue = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    after: JsonValue = {"a": {"b": 2, "c": [1, 3]}, "d": None, "e": 5}
    assert differences(before, after) == [
        ("a.b", "1", "2"),
        ("a.c[1]", "2", "3"),
        ("e", "null", "5"),
    ]


def test_a_run_folder_has_one_owner(tmp_path: Path) -> None:
    with owned(tmp_path), pytest.raises(RecipeError, match="in use"), owned(tmp_path):
        pass


def test_a_lock_that_cannot_be_opened_is_one_message(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(ToolkitError, match=r"\.lock: cannot be opened for writing .*--runs"),
        owned(tmp_path),
    ):
        pass


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000, "\x00"])
def test_settings_of_a_run_that_are_no_json_object_are_one_message(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "recipe.lock.json").write_text(content)
    with pytest.raises(RecipeError, match=r"recipe\.lock\.json: is not JSON"):
        open_run(tmp_path, "cells", {"seed": 0}, "seed: 0\n")


def test_settings_of_a_run_that_cannot_be_read_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "cells" / "recipe.lock.json").mkdir(parents=True)
    with pytest.raises(ToolkitError, match=r"recipe\.lock\.json: cannot be read .*permissions"):
        open_run(tmp_path, "cells", {"seed": 0}, "seed: 0\n")


def test_a_home_is_checked_and_nothing_is_left(tmp_path: Path) -> None:
    assert not check_home(tmp_path / "runs", "x", {"seed": 0})
    assert list(tmp_path.iterdir()) == []
    open_run(tmp_path / "runs", "x", {"seed": 0}, "text")
    assert check_home(tmp_path / "runs", "x", {"seed": 0})
    with pytest.raises(RecipeError, match="choose another name"):
        check_home(tmp_path / "runs", "x", {"seed": 1})


def test_a_home_in_use_is_found_without_opening_it(tmp_path: Path) -> None:
    require_unused(tmp_path / "nowhere")
    with owned(tmp_path), pytest.raises(RecipeError, match="in use"):
        require_unused(tmp_path)
    require_unused(tmp_path)


def test_a_finished_stage_whose_files_changed_is_not_used(tmp_path: Path) -> None:
    folder = once(tmp_path / "stage", lambda out: (out / "file").touch())
    (folder / "file").write_text("hole!")
    with pytest.raises(ToolkitError, match=r"stage/file: was changed .* or delete \S+stage to do"):
        once(folder, lambda _: None)
    shutil.rmtree(folder)
    once(folder, lambda out: (out / "file").touch())
    assert once(folder, lambda _: None) == folder


@pytest.mark.parametrize("content", ["", "[1]", "null", '{"steps": "many"}', '{"rows": {}}'])
def test_a_damaged_record_is_one_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(ToolkitError, match=r"training.json: cannot be read .* delete \S+ to do"):
        read_record(tmp_path)
    (tmp_path / "equal_time.json").write_text(content)
    with pytest.raises(ToolkitError, match=r"equal_time.json: cannot be read .* measure it again"):
        read_step_ratio(tmp_path)


def test_changed_settings_of_a_run_folder_are_told(tmp_path: Path) -> None:
    home = open_run(tmp_path, "x", {"a": 1}, "text")
    (home / "recipe.yaml").unlink()
    (home / "recipe.lock.json").write_text('{"a": 2}')
    with pytest.raises(ToolkitError, match=r"lock.json: was changed .* delete \S+lock.json to go"):
        open_run(tmp_path, "x", {"a": 1}, "text")
    (home / "recipe.lock.json").unlink()
    open_run(tmp_path, "x", {"a": 1}, "text")
    assert (home / "recipe.yaml").read_text() == "text"
    open_run(tmp_path, "x", {"a": 1}, "text")
