"""Runs in processes of their own, forked from one that has imported torch already.

A fresh interpreter spends five seconds on imports; a test of what a kill does need not wait for
them. Tests of signals during imports start `python -m` instead.
"""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from compress.run import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["compress.pipeline", "torch.onnx", "onnxscript", "onnxruntime"])


def start_run(arguments: Sequence[str], said: Path) -> ForkServerProcess:
    """Start `python -m compress.run` with `arguments`; its standard error goes to `said`."""
    process = _CONTEXT.Process(target=_run, args=(arguments, said))
    process.start()
    return process


def _run(arguments: Sequence[str], said: Path) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 2)
    sys.stderr = os.fdopen(2, "w")
    sys.exit(main(arguments))
