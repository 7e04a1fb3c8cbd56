"""The commands of slimdet, and where each is. Importing this loads none of them."""

from typing import NamedTuple


class Command(NamedTuple):
    """One command.

    Attributes:
        target: "module:function"; the function takes the arguments and the command's name, and
            returns the exit code.
        purpose: what it does, in a line.
    """

    target: str
    purpose: str


COMMANDS = {
    "run": Command("compress.run:main", "carry a recipe from data to report"),
    "check": Command("compress.run:check", "validate a recipe and print the plan; change nothing"),
    "doctor": Command("compress.doctor:main", "say what works on this machine"),
    "methods": Command("compress.methods:main", "list the distillation methods and what they need"),
    "build": Command("export.build:main", "build a TensorRT engine, or quantise an ONNX file"),
    "predict": Command("export.predict:main", "run a detector on photographs and videos"),
    "verify": Command("export.verify:main", "check that a bundle finds here what it found there"),
    "bundle": Command("export.bundle:main", "pack models with all that a device needs"),
    "lint": Command("export.lint:main", "say what TensorRT would refuse in a quantised ONNX file"),
    "bench": Command("benchmarks.run:main", "measure accuracy and latency of exported models"),
    "compare": Command("benchmarks.compare:main", "say what changed between two reports"),
    "completion": Command("slimdet.completion:main", "print a script for completion in the shell"),
}
