from compress.parts.licence import made_with, notice
from export.artifact.manifest import NOTICE

YOLO = "ultralytics 8.4.190 (AGPL-3.0)"


def test_code_under_the_project_s_own_licence_needs_no_notice() -> None:
    assert notice([]) == notice(["", ""]) == ""
    assert made_with(["", ""]) == {}


def test_the_notice_names_package_version_licence_and_the_owner_s_claim() -> None:
    said = notice(["", YOLO, YOLO])
    assert said.startswith(f"This run used {YOLO}. If you distribute or serve the result")
    assert "Ultralytics claims AGPL-3.0 for models trained with its code" in said
    assert "docs/licence.md" in said
    assert said.endswith("This is not legal advice.")


def test_a_claim_is_stated_of_its_own_package_alone() -> None:
    said = notice(["toyware 1.2 (GPL-3.0)"])
    assert "toyware 1.2 (GPL-3.0)" in said
    assert "Ultralytics" not in said


def test_the_sidecar_states_version_and_notice() -> None:
    made = made_with([YOLO, "toyware 1.2 (GPL-3.0)"])
    assert made["ultralytics"] == "8.4.190 (AGPL-3.0)"
    assert made["toyware"] == "1.2 (GPL-3.0)"
    assert made[NOTICE] == notice([YOLO, "toyware 1.2 (GPL-3.0)"])
