"""The sources as trees; a file is parsed once for all tests that read it."""

import ast
from collections.abc import Iterator
from functools import cache

tree_of = cache(ast.parse)


def functions_in(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield every function below a node; looks into statements only, as expressions hold none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from functions_in(child)
