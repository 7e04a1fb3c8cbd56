"""The sources as trees; a file is parsed once for all tests that read it."""

import ast
from functools import cache

tree_of = cache(ast.parse)
