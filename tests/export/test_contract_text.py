"""A bundle's README tells a client which boxes to drop, and under which licences it was made."""

import pytest

from export.artifact.manifest import NOTICE, Manifest, NmsSpec
from export.bundles.contract import contract
from export.bundles.text import readme
from tests.export.tiny import tiny_manifest

HOST, GRAPH, NONE = NmsSpec(iou=0.45), NmsSpec(mode="graph", iou=0.55), NmsSpec(mode="none", iou=1)


def with_nms(nms: NmsSpec) -> Manifest:
    return tiny_manifest().model_copy(update={"nms": nms})


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        ([HOST], "by an IoU above 0.45"),
        ([GRAPH], "by an IoU above 0.55"),
        ([GRAPH, HOST], "by an IoU above 0.45"),  # it is the client that has to know
        ([NONE, HOST], "by an IoU above 0.45"),
        ([NONE, NONE], "3. Drop none: the model gives one box per object"),
    ],
)
def test_step_three_is_what_the_artifacts_need(specs: list[NmsSpec], said: str) -> None:
    text = contract({str(number): with_nms(spec) for number, spec in enumerate(specs)})
    assert said in text
    assert ("an IoU above" in text) == any(spec.mode != "none" for spec in specs)
    assert "\n4. Keep the first 100.\n" in text


def test_the_table_and_the_licence_are_those_of_the_sidecars() -> None:
    plain = with_nms(HOST)
    noted = with_nms(NONE).model_copy(update={"made_by": {NOTICE: "This run used [toys]."}})
    text = readme("x", [("a", plain, "any"), ("b", noted, "any")], ["onnxruntime"], None, {})
    assert "| `a` | onnxruntime | fp32 | float32 | client |" in text
    assert "| `b` | onnxruntime | fp32 | float32 | not needed |" in text
    assert text.endswith("\n## Licence\n\nThis run used \\[toys\\].\n")
    alone = readme("x", [("a", plain, "any")], ["onnxruntime"], None, {})
    assert alone.endswith("`tritonserver --model-repository=triton`.\n")
    assert "Licence" not in alone
