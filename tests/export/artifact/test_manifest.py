import hashlib
import json

import pytest
from pydantic import ValidationError

from export.artifact.manifest import file_sha256, read_manifest, write_manifest
from export.errors import ExportError
from tests.export.tiny import tiny_manifest


def test_a_manifest_survives_the_way_through_its_file(tmp_path):
    manifest = tiny_manifest().model_copy(
        update={"parity": {"matched": 3.0}, "quantization": {"method": "minmax", "images": 8}}
    )
    write_manifest(manifest, tmp_path / "model.json")
    assert read_manifest(tmp_path / "model.json") == manifest
    assert json.loads((tmp_path / "model.json").read_text())["schema"] == 1


def changed(tmp_path, **changes):
    content = json.loads(tiny_manifest().model_dump_json(by_alias=True)) | changes
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    return path


def test_a_missing_sidecar_is_named(tmp_path):
    with pytest.raises(ExportError, match="beside the model it was made with") as caught:
        read_manifest(tmp_path / "model.json")
    assert str(tmp_path / "model.json") in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_what_is_not_json_is_refused(tmp_path, text):
    (tmp_path / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ExportError, match="not a JSON object"):
        read_manifest(tmp_path / "model.json")


def test_another_schema_is_refused_by_its_number(tmp_path):
    with pytest.raises(ExportError, match="schema 2, and this version reads schema 1"):
        read_manifest(changed(tmp_path, schema=2))


def test_unknown_keys_and_wrong_values_are_told_together(tmp_path):
    with pytest.raises(ExportError) as caught:
        read_manifest(changed(tmp_path, colour="red", parameters="many"))
    assert "colour" in str(caught.value)
    assert "parameters" in str(caught.value)


@pytest.mark.parametrize("deep", [False, True])
def test_an_unknown_key_reaches_the_message_without_control_characters_and_cut(tmp_path, deep):
    added = {"\x1b[31mred\nb": 1, "y" * 3000: 1}
    tensor = json.loads(tiny_manifest().model_dump_json())["input"]
    tensor["preprocessing"] |= added
    with pytest.raises(ExportError) as caught:
        read_manifest(changed(tmp_path, **({"input": tensor} if deep else added)))
    assert str(caught.value).isprintable()
    assert "\\x1b[31mred\\nb" in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 400


def test_classes_and_their_ids_must_be_as_many(tmp_path):
    with pytest.raises(ExportError, match="1 category_ids for 2 classes"):
        read_manifest(changed(tmp_path, category_ids=[17]))


def test_a_manifest_cannot_be_changed():
    with pytest.raises(ValidationError):
        tiny_manifest().model = "teacher"  # type: ignore[misc]


def test_the_hash_is_that_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "a.bin").write_bytes(content)
    assert file_sha256(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_another_version_of_the_preprocessing_is_refused_by_its_number(tmp_path):
    tensor = json.loads(tiny_manifest().model_dump_json())["input"]
    tensor["preprocessing"] |= {"version": 2, "sharpen": 1}
    with pytest.raises(ExportError, match=r"version 2, and this version of slimdet does 1"):
        read_manifest(changed(tmp_path, input=tensor))


def test_a_sidecar_made_before_the_preprocessing_was_stated_is_still_read(tmp_path):
    tensor = json.loads(tiny_manifest().model_dump_json())["input"]
    del tensor["preprocessing"]
    assert read_manifest(changed(tmp_path, input=tensor)).input.preprocessing is None


@pytest.mark.parametrize("digits", [str(2**63), f"-{10**30}", "1" + "0" * 5000], ids=len)
def test_a_number_of_more_than_64_bits_is_refused(tmp_path, digits):
    path = changed(tmp_path)
    before, key, after = path.read_text().partition('"parameters": 1')
    assert key
    path.write_text(f'{before}"parameters": {digits}{after}')
    with pytest.raises(ExportError, match="has more than 64 bits"):
        read_manifest(path)
