"""The classes and functions that a checkpoint may name.

The names are read and never run (`pickle_machine`). A file that names others would run code of its
maker where it is loaded by other programs, and its user should know.
"""

import re
import sys

# What a checkpoint may name, by module.
_PLAIN = {
    "builtins": "set frozenset dict list tuple int float bool str bytes bytearray complex slice "
    "range object getattr",
    "collections": "OrderedDict defaultdict deque Counter",
    "copyreg": "_reconstructor __newobj__",
    "functools": "partial",
    "types": "SimpleNamespace",
    "argparse": "Namespace",
    "datetime": "datetime date time timedelta timezone",
    "pathlib": "Path PosixPath WindowsPath PurePosixPath PureWindowsPath _local",
    "_codecs": "encode",
    "numpy": "dtype ndarray core.multiarray.scalar core.multiarray._reconstruct "
    "_core.multiarray.scalar _core.multiarray._reconstruct",
    "torch": "Size device Tensor Generator _tensor._rebuild_from_type_v2",
}
_PLAIN["__builtin__"], _PLAIN["copy_reg"] = _PLAIN["builtins"], _PLAIN["copyreg"]
_TORCH = re.compile(
    r"torch\.(nn|optim|amp|cuda\.amp)(\.[a-z]\w*)*\._*[A-Z]\w*|torch\.nn\.(functional|init)\.\w+|"
    r"torch\.(cuda\.|storage\.)?\w+Storage|"
    r"torch\.(bool|uint8|b?float\d+|q?u?int\d+|complex\d+)|torch\._utils\._rebuild_\w+"
)
_CLASS = re.compile(r"_*(v\d+)?[A-Z]\w*")


def is_expected(name: str) -> bool:
    """Whether a checkpoint may hold a name: a class of a package, or a plain value."""
    root, _, rest = name.partition(".")
    if rest in _PLAIN.get(root, "").split() or _TORCH.fullmatch(name):
        return True
    if root == "pathlib":
        return rest.startswith("_local.") and rest.removeprefix("_local.") in _PLAIN[root].split()
    if root == "torch" or root in sys.stdlib_module_names or root in _PLAIN:
        return False
    parts = name.split(".")
    return _CLASS.fullmatch(parts[-1]) is not None and not any(
        p.startswith("__") for p in parts[1:]
    )
