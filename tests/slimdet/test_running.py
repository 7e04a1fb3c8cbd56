import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import slimdet
from compress.recipe import load_recipe, read_recipe
from tests.compress.smoke import SMOKE, write_smoke


def smoke() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(SMOKE)
    return copy.deepcopy(settings)  # parts what an alias of the file shares


def test_a_recipe_in_python_is_the_recipe_of_the_file(tmp_path: Path) -> None:
    from_file, _ = load_recipe(write_smoke(tmp_path))
    from_python, source = read_recipe({**smoke(), "distill": tuple(smoke()["distill"])})
    assert from_python == from_file
    (tmp_path / "saved.yaml").write_text(source.text)
    assert load_recipe(tmp_path / "saved.yaml")[0] == from_file


def test_mistakes_of_a_recipe_in_python_are_told_by_key() -> None:
    wrong = smoke()
    wrong["train"]["epoch"] = 3
    wrong["distill"][0]["type"] = "defeet"
    with pytest.raises(slimdet.RecipeError) as caught:
        slimdet.run(wrong)
    first, second = sorted(str(caught.value).splitlines())
    assert first.startswith("distill[0]: 'defeet' is not one of the allowed values; did you mean")
    assert second.startswith("train.epoch: unknown key")


def test_mistakes_that_show_with_the_models_are_told_by_key(tmp_path: Path) -> None:
    wrong = smoke()
    wrong["distill"] = [{"type": "crosskd"}]
    wrong["student"] = {**wrong["student"], "type": "ssd"}
    for key in ("reg_max", "head_depth"):
        wrong["student"].pop(key)
    with pytest.raises(slimdet.RecipeError, match=r"^distill\[0\]: |^student"):
        slimdet.run(wrong, runs=tmp_path, device="cpu", quiet=True)


def test_a_value_that_no_recipe_can_hold_is_refused() -> None:
    with pytest.raises(slimdet.RecipeError, match="is no text, number or list"):
        slimdet.run({**smoke(), "seed": object()})


def test_a_path_may_stand_in_a_recipe_in_python(tmp_path: Path) -> None:
    settings = {**smoke(), "data": {"type": "folder", "root": tmp_path, "image_size": 64}}
    settings["teacher"] = {**settings["teacher"]}
    assert str(tmp_path) in read_recipe(settings)[1].text


@pytest.mark.slow
def test_a_run_from_python_is_reported_loaded_and_resumed(tmp_path: Path) -> None:
    done = slimdet.run(
        smoke(), overrides=["baseline.enabled=false"], runs=tmp_path, device="cpu", quiet=True
    )
    assert done.folder == tmp_path / "smoke"
    assert done.report["name"] == "smoke"
    assert done.html.is_file()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with done.load() as exported:
        found = exported.predict(pixels, threshold=0.0)[0]
    weights = done.folder / "models" / "seed0-student" / "model.safetensors"
    with slimdet.load(weights) as trained:
        assert trained.classes == exported.classes
        again = trained.predict(pixels, threshold=0.0)[0]
    assert len(found) == len(again) > 0
    np.testing.assert_allclose(found.scores, again.scores, atol=1e-4)
    before = done.html.stat().st_mtime_ns
    file = tmp_path / "recipe.yaml"
    file.write_text((done.folder / "recipe.yaml").read_text())
    overrides = ["baseline.enabled=false"]
    assert slimdet.run(file, overrides=overrides, runs=tmp_path, device="cpu", quiet=True) == done
    assert done.html.stat().st_mtime_ns == before
