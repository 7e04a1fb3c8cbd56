"""Names of models: what stands on disk reads back as what was meant."""

import pytest

from compress.stages.model_name import ModelName, stages_of

# spelling in run folders -> name; runs made before depend on it
SPELT = {
    "teacher": ModelName.of_teacher(0),
    "teacher2": ModelName.of_teacher(1),
    "teacher12": ModelName.of_teacher(11),
    "seed0-student": ModelName(0, "student"),
    "seed17-baseline": ModelName(17, "baseline"),
    "seed0-baseline_equal_time": ModelName(0, "baseline_equal_time"),
    "seed3-student-stage1": ModelName(3, "student", 1),
}


@pytest.mark.parametrize("text", SPELT)
def test_a_name_is_spelt_as_runs_on_disk_spell_it_and_reads_back(text: str) -> None:
    assert str(SPELT[text]) == text
    assert ModelName.parse(text) == SPELT[text]


@pytest.mark.parametrize(
    "text",
    [
        "classifier",
        "teacher1",
        "teacher0",
        "seed-student",
        "seed0-pupil",
        "seed0-student-stage",
        "",
    ],
)
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a model"):
        ModelName.parse(text)


def test_the_last_stage_is_the_finished_model() -> None:
    assert [str(name) for name in stages_of(4, "student", 1)] == ["seed4-student"]
    names = stages_of(0, "baseline", 3)
    assert [str(name) for name in names] == [
        "seed0-baseline-stage1",
        "seed0-baseline-stage2",
        "seed0-baseline",
    ]
    assert [n.finished for n in (*names, ModelName.of_teacher(1))] == [False, False, True, True]


def test_titles_leave_out_the_seed() -> None:
    names = ("teacher2", "seed0-baseline-stage1", "seed0-baseline_equal_time")
    assert [ModelName.parse(name).title for name in names] == [
        "teacher2",
        "baseline stage 1",
        "baseline_equal_time",
    ]


def test_a_key_names_the_row_of_one_artifact() -> None:
    assert ModelName(0, "student").key("onnxruntime", "int8") == "seed0-student-onnxruntime-int8"
