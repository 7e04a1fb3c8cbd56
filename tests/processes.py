"""Processes of their own, forked from one that has imported torch already.

A fresh interpreter spends five seconds on imports; a test of what a kill does, or of what several
processes compute, need not wait for them. Tests of signals during imports start `python -m`.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from torch.multiprocessing.spawn import start_processes

from compress.run import main

METHOD = "forkserver"
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["compress.pipeline", "onnxscript", "onnxruntime", "pytest"])


def start_each(work: Callable[..., None], *given: Any, processes: int = 2) -> None:
    """Call `work(rank, *given)` in several processes and wait; an error in one is raised."""
    start_processes(work, given, nprocs=processes, start_method=METHOD)


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
