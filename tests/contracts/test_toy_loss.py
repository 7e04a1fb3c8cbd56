"""A new loss is one file and one entry of the union: it is listed, checked, built and trained."""

import json

import pytest

from tests.compress.smoke import SMOKE
from tests.contracts.checkout import Checkout, copy_to

TOY = '''
"""Toy: imitate the mean of the coarsest map."""

from typing import ClassVar, Literal

from torch import Tensor

from compress.batch import Batch
from compress.detector import DetectorSpec, Knowledge, Outputs
from compress.losses.parts.loss import DistillationLoss, LossSection, Source
from compress.parts.processes import mean_of_batch


class ToyConfig(LossSection):
    """How far apart the two means may be."""

    written_from: ClassVar[Source] = "formula"

    type: Literal["toy"]
    margin: float = 0.0

    def needs(self, student: DetectorSpec, teacher: DetectorSpec) -> frozenset[Knowledge]:
        return frozenset({"features"})

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
        if student.strides[-1] == teacher.strides[-1]:
            return []
        return ["the coarsest strides differ"]

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Toy":
        return Toy(self, student, teacher)


class Toy(DistillationLoss):
    """One term."""

    config: ToyConfig

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        gap = student.features[-1].mean(dim=(1, 2, 3)) - teacher.features[-1].mean(dim=(1, 2, 3))
        error = (gap.abs() - self.config.margin).clamp(min=0).mean()
        return {"mean": mean_of_batch(error, len(batch.images))}
'''

LOCAL = TOY.replace("mean_of_batch(error, len(batch.images))", "error")
TOY_ONLY = ("-p", "no:cacheprovider", "-k", "toy")

STEP = """
import dataclasses, json, sys
from pathlib import Path
import torch
from compress.distillation.distiller import Distiller
from compress.distillation.pairing import check_pair
from compress.detectors.small_pairs import small_pair
from compress.recipe import load_recipe
from tests.compress.detectors.small import small_batch

recipe, _ = load_recipe(Path(sys.argv[1]))
student, teacher = small_pair("gfl")
other = dataclasses.replace(teacher.spec, strides=(8, 16, 64))
objective = Distiller(student, teacher, recipe.distill).train()
optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)
before = [p.detach().clone() for p in student.parameters()]
terms = objective(small_batch())
terms["toy/mean"].backward()
optimizer.step()
print(json.dumps({
    "fits": check_pair(student.spec, teacher.spec, recipe.distill),
    "problems": check_pair(student.spec, other, recipe.distill),
    "terms": [name for name in terms if not name.startswith("task/")],
    "moved": any(not torch.equal(a, b) for a, b in zip(before, student.parameters())),
}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = copy_to(tmp_path_factory.mktemp("toy_loss"))
    made.add_toy("compress/losses", TOY, "tadf", "TadfConfig")
    return made


@pytest.mark.slow
def test_a_recipe_with_the_new_loss_is_checked_built_and_distilled_for_a_step(
    checkout: Checkout,
) -> None:
    recipe = checkout.root / "toy.yaml"
    (first, *_), (last, *_) = SMOKE.split("distill:"), SMOKE.split("train: {steps")[1:]
    recipe.write_text(f"{first}distill:\n  - {{type: toy, weight: 2}}\ntrain: {{steps{last}")
    found = json.loads(checkout.python("-c", STEP, str(recipe)))
    assert found["fits"] == []
    assert found["problems"] == [[0, "the coarsest strides differ"]]
    assert found["terms"] == ["toy/mean"]
    assert found["moved"]


@pytest.mark.slow
def test_the_new_loss_has_a_row_in_the_table_of_methods(checkout: Checkout) -> None:
    both = "from compress.methods import main; main(['--markdown']); main(['toy'])"
    said = checkout.python("-c", both)
    (row,) = [line for line in said.splitlines() if line.startswith("| `toy` |")]
    assert row.split(" | ")[1:3] == ["formula", "features"]
    assert "\n    margin: 0.0\n" in said


LOSSES = "tests/contracts/test_losses.py"
PROCESSES = "tests/contracts/test_processes.py"


@pytest.mark.slow
def test_the_contract_tests_cover_the_new_loss_without_a_change(checkout: Checkout) -> None:
    said = checkout.python("-m", "pytest", LOSSES, PROCESSES, "-q", "-rA", *TOY_ONLY)
    assert f"PASSED {LOSSES}::test_no_gradient_reaches_the_teacher[toy]" in said
    assert f"PASSED {PROCESSES}::test_two_processes_train_and_log_what_one_does[toy]" in said
    assert " failed" not in said


@pytest.mark.slow
def test_a_new_loss_with_a_mean_of_one_process_is_found(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = copy_to(tmp_path_factory.mktemp("local_toy_loss"))
    made.add_toy("compress/losses", LOCAL, "tadf", "TadfConfig")
    said = made.python("-m", "pytest", PROCESSES, "-q", "-rA", *TOY_ONLY, fails=True)
    assert f"FAILED {PROCESSES}::test_two_processes_train_and_log_what_one_does[toy]" in said
