"""The commands of slimdet and their modules. Importing this file loads none of them."""

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


MODEL = "slimdet.model_commands"  # commands of the other packages, on anything that `load` opens

COMMANDS = {
    "run": Command("compress.run:main", "run a recipe: train, export, measure, report"),
    "check": Command("compress.run:check", "validate a recipe and print the plan; change nothing"),
    "teach": Command("compress.run:teach", "pass the pictures through the teachers, once"),
    "doctor": Command("compress.doctor:main", "check what works on this machine"),
    "methods": Command("compress.methods:main", "list the distillation methods and what they need"),
    "build": Command(f"{MODEL}:build", "build an ONNX file or an engine in a precision"),
    "predict": Command(f"{MODEL}:predict", "run a detector on photographs and videos"),
    "verify": Command(f"{MODEL}:verify", "check that a bundle gives the expected boxes here"),
    "bundle": Command(f"{MODEL}:bundle", "pack models with everything a device needs"),
    "lint": Command(f"{MODEL}:lint", "find what TensorRT would refuse in a quantised ONNX file"),
    "bench": Command(f"{MODEL}:bench", "measure accuracy and latency of exported models"),
    "export-pt": Command("slimdet.export_pt:main", "write a .pt for Ultralytics' package"),
    "compare": Command("benchmarks.compare:main", "compare two reports, with limits if given"),
    "completion": Command("slimdet.completion:main", "print a script for shell completion"),
}
