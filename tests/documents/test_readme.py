"""The README says what is so."""

import re
from pathlib import Path

import pytest

from benchmarks.studies.readme import filled
from compress import methods
from compress.detectors.ultralytics_parts.installed import is_installed
from compress.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tree_and_results_are_those_of_the_files() -> None:
    assert filled(README, ROOT) == README, "run: python -m benchmarks.studies.readme"


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed: a column is its own")
def test_the_table_of_methods_is_what_they_say_of_themselves() -> None:
    table = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert "<!-- methods -->" in table
    assert methods.filled(table) == table, "run: python -m compress.methods --write"


def test_the_recipe_in_the_readme_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my.yaml").write_text(block, encoding="utf-8")
    recipe, _ = load_recipe(tmp_path / "my.yaml", ["data.root=elsewhere"])
    assert recipe.name == "cells"


def test_every_file_that_a_document_names_exists() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = document.read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
        for name in links:
            assert (document.parent / name).exists(), f"{document.name}: {name}"
        for name in re.findall(r"`(benchmarks/results/\w+\.\w+)`", text):
            assert (ROOT / name).is_file(), f"{document.name}: {name}"


def test_the_readme_stays_short() -> None:
    assert README.count("\n") <= 180
