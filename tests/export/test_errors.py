import pytest

from export.errors import DataError, as_markdown, counted, printable, shown, unsafe_character


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("a\nb", "U+000A"),
        ("\x1b[31mred", "U+001B"),
        ("\x9b31m", "U+009B"),
        ("a\u202eb", "U+202E"),
        ("a\u2028b", "U+2028"),
        ("a\ud800", "U+D800"),
        ("NUL\0", "U+0000"),
    ],
)
def test_a_character_that_changes_what_is_around_it_is_found_and_escaped(text, character):
    assert unsafe_character(text) == character
    assert unsafe_character(printable(text)) is None
    assert printable(text) != text


@pytest.mark.parametrize(
    "text", ["cat", "Größe", "猫", "\u0646\u06cc\u0645\u200c\u0641", "👩\u200d🚒", "a b"]
)
def test_names_of_every_script_stay_as_they_are(text):
    assert unsafe_character(text) is None
    assert printable(text) == text


def test_line_breaks_are_kept_where_they_are_wanted():
    assert printable("one\ntwo\x07", keep="\n") == "one\ntwo\\x07"


def test_long_and_endless_values_are_cut():
    assert len(shown("x" * 1000)) == 80
    assert shown(10**5000) == "(int)"
    endless: list[object] = []
    endless.append(endless)
    assert shown(endless) == "[[...]]"


def test_no_error_carries_an_escape_sequence_to_the_terminal():
    assert str(DataError("class '\x1b[2Jcat' of a\nb")) == "class '\\x1b[2Jcat' of a\\nb"


def test_only_the_lines_that_an_error_is_given_become_lines():
    assert str(DataError("a\nb: broken", "and 2 more")) == "a\\nb: broken\nand 2 more"


def test_a_count_agrees_with_its_noun():
    assert [counted(n, "box", "boxes") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert counted(1, "file was", "files were") == "1 file was"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("AP_S 1.62 [1.53, 1.78] ms", "AP_S 1.62 [1.53, 1.78] ms"),
        ("p50 [95\u00a0%]", "p50 [95\u00a0%]"),
        ("[1](javascript:x)", r"\[1\](javascript:x)"),
        ("[1]: http://x", r"\[1\]: http:/\/x"),
        ("![](x)", r"!\[\](x)"),
        ("<b> & `c` _d_ ~~~ a|b", r"&lt;b&gt; &amp; \`c\` \_d\_ \~\~\~ a\|b"),
        ("www.x.y", r"www\.x.y"),
        ("\x1b[31m\n# a", r"\\x1b\[31m\\n# a"),
    ],
)
def test_markdown_shows_text_as_text(text, source):
    assert as_markdown(text) == source
