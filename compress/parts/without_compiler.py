"""Import torchvision without torch's compiler, for commands that run no model.

`torchvision.ops.roi_align` imports one function of the compiler, called on GPUs only, which costs
every import of torchvision more than a second. A stand-in module provides that function and
imports it when it is called; any other attribute imports the real module at once.
"""

import importlib.util
import sys
from types import ModuleType

PACKAGE, MODULE = "torch._dynamo", "torch._dynamo.utils"
LATER = "is_compile_supported"


class _StandIn(ModuleType):
    """Replaces a module during one import."""

    def __getattr__(self, name: str) -> object:
        if name == LATER:
            return _is_compile_supported
        if name.startswith("__"):
            raise AttributeError(name)  # attributes that the import machinery looks up
        remove_stand_ins()
        return getattr(importlib.import_module(self.__name__), name)


def _is_compile_supported(device_type: str) -> bool:
    supported: bool = getattr(importlib.import_module(MODULE), LATER)(device_type)
    return supported


def remove_stand_ins() -> None:
    """Remove the stand-ins, so that the real modules are imported from here on."""
    for name in (MODULE, PACKAGE):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def import_torchvision() -> None:
    """Import torchvision unless missing or already imported; restore what was replaced."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "torchvision")):
        return
    importlib.import_module("torch")
    if not {PACKAGE, "torchvision"} & sys.modules.keys():
        sys.modules[PACKAGE], sys.modules[MODULE] = _StandIn(PACKAGE), _StandIn(MODULE)
        try:
            importlib.import_module("torchvision")
        finally:
            remove_stand_ins()
