"""Every picture file is opened as one of the formats that Pillow decodes by itself."""

import ast

from tests.architecture.sources import tree_of
from tests.architecture.test_imports import FILES, ROOT

CLIENT = ROOT / "tests" / "export" / "client.py"


def opened_as_anything(text: str) -> list[int]:
    """Return the lines of calls of `Image.open` that do not name the formats."""
    return [
        node.lineno
        for node in ast.walk(tree_of(text))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("Image.open")
        and "formats" not in {keyword.arg for keyword in node.keywords}
    ]


def test_a_call_without_formats_is_found():
    text = "a = Image.open(p)\nb = PIL.Image.open(p, 'r')\nc = Image.open(p, formats=F)\n"
    assert opened_as_anything(text) == [1, 2]


def test_no_source_opens_a_picture_file_of_any_format():
    texts = {path: path.read_text(encoding="utf-8") for path in [*FILES, CLIENT]}
    having = {path: text for path, text in texts.items() if "Image.open" in text}
    assert len(having) >= 3
    found = {str(path): opened_as_anything(text) for path, text in having.items()}
    assert not {path: lines for path, lines in found.items() if lines}
