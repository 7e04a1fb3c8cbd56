"""YAML from anybody: plain data alone, refused with its line before it grows."""

import time

import pytest

from export.reading.plain_yaml import MOST_CHARACTERS, YamlError, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("017", "017"),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1_0.5", "1_0.5"),
        ("0x_1F", "0x_1F"),
        ("-0x1F", "-0x1F"),
        ("0b101", "0b101"),
        ("0x", "0x"),
        ("1e3", 1000.0),
        ("+5", 5),
        ("+.5e1", 5.0),
        ("1:30:00.5", "1:30:00.5"),
        ("1,000", "1,000"),
        ("\uff11", "\uff11"),
        ("-0", 0),
        ("1e-3", 0.001),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("true", True),
        ("~", None),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("!!int '12'", 12),
        ("!!float 1", 1),
        ("_", "_"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_read_as_in_yaml_1_2(text: str, value: object) -> None:
    found = read_yaml(f"a: {text}").value
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert type(found["a"]) is type(value)


def test_merged_sections_give_way_to_the_keys_beside_them() -> None:
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {c: 5, <<: [*x, *y]}"
    found = read_yaml(text).value
    assert isinstance(found, dict)
    assert found["z"] == {"a": 1, "b": 2, "c": 5}


def test_scalars_without_quotes_are_also_kept_as_written() -> None:
    assert read_yaml("a: [1_0, '2', yes]").texts == {("a", 0): "1_0", ("a", 2): "yes"}


def test_numbers_are_keys_only_where_asked_for() -> None:
    assert str(read_yaml("{0: a}", number_keys=True).value) == "{0: 'a'}"
    with pytest.raises(YamlError, match="'0' stands as a key"):
        read_yaml("{0: a}")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        (BOMB, 4, "d", "its aliases"),
        ("a: 1\nb: &b [*b]", 2, "b[0]", "contains itself"),
        ("a: &a {x: {y: *a}}", 1, "a.x.y", "contains itself"),
        ("a: &a {<<: *a}", 1, "a.<<", "contains itself"),
        ("a: {<<: 3}", 1, "a.<<", "expected a section to merge"),
        ("[" * 5000, 1, "", "nested more than 32 levels"),
        ("{a: " * 3000, 1, "", "nested more than 32 levels"),
        ("".join(" " * depth + "a:\n" for depth in range(199)), 33, "", "nested more than 32"),
        ("a: 1\nb: !!int abc", 2, "b", "the tag !!int does not fit 'abc'"),
        ("b: !!int true", 1, "b", "the tag !!int does not fit 'true'"),
        ("b: !!float x", 1, "b", "the tag !!float does not fit"),
        ("b: !!bool maybe", 1, "b", "the tag !!bool does not fit"),
        ("b: !!null x", 1, "b", "the tag !!null does not fit"),
        ("b: !!timestamp abc", 1, "b", "the tag '!!timestamp' is not read"),
        ("b: !!binary aGk=", 1, "b", "the tag '!!binary' is not read"),
        ("b: !!set {x, y}", 1, "b", "the tag '!!set' is not read"),
        ("b: !!omap [x: 1]", 1, "b", "the tag '!!omap' is not read"),
        ("b: !mine x", 1, "b", "the tag '!mine' is not read"),
        ("b: !!python/object/apply:os.system [x]", 1, "b", "the tag '!!python/"),
        ("a: 1\n? [1, 2]\n: 3", 2, "", "a list stands as a key"),
        ("a:\n  ? {b: 1}\n  : 3", 2, "a", "a section stands as a key"),
        ("a: 1\nnull: 3", 2, "null", "'null' stands as a key"),
        ("a:\n  true: 3", 2, "a.true", "'true' stands as a key"),
        ("a:\n  - b: 1\n    b: 2", 3, "a[0].b", "stands twice in one section (first on line 2)"),
        ("a: 1\nb: .nan", 2, "b", "expected a finite number, found .nan"),
        ("b: [1, -.INF]", 1, "b[1]", "expected a finite number, found -.INF"),
        ("b: 1e999", 1, "b", "expected a finite number, found 1e999"),
        ("b: " + "9" * 5000, 1, "b", "a number of 5000 digits"),
        ("a: 1\nb: x\0", 2, "b", "the control character U+0000"),
        ('b: "\\e[31m"', 1, "b", "the control character U+001B"),
        ('b: "a\\nb"', 1, "b", "the control character U+000A"),
        ("a: 1\n\0\nb: 2", 2, "", "the control character U+0000"),
        ("a: 1\n# \x1b[2J", 2, "", "the control character U+001B"),
        ("a: 1\n---\nb: 1", 2, "", "a second document"),
        ("a: 1\n\tb: 2", 2, "", "a tab stands where spaces are expected"),
        ("a: [1, *b]", 1, "", "the alias *b names nothing"),
        ("a: [1, 2", 2, "", "is not plain YAML: "),
        ("%YAML 7.0\n---\na: 1", 1, "", "is not plain YAML: "),
        ("a: 1\nb: x: y", 2, "", "is not plain YAML: "),
        ("a" * (MOST_CHARACTERS + 1), 1, "", "expected at most 100000"),
    ],
)
def test_what_is_not_plain_is_refused_at_once_with_its_place(
    text: str, line: int, key: str, said: str
) -> None:
    start = time.process_time()
    with pytest.raises(YamlError) as caught:
        read_yaml(text)
    assert time.process_time() - start < 0.5
    assert (caught.value.line, caught.value.key) == (line, key)
    assert said in caught.value.problem


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n...\n"])
def test_a_text_without_content_has_no_value(text: str) -> None:
    assert read_yaml(text).value is None
