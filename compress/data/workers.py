"""How the processes that prepare batches end."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from types import TracebackType


def end_with_parent(_number: int) -> None:
    """End this worker as soon as its parent ends, or sends SIGTERM: torch's workers may need it."""
    threading.Thread(target=_outlive_no_parent, daemon=True).start()
    sys.excepthook = _hesitate
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return
    threading.Thread(target=_await_the_parent, args=(os.getppid(),), daemon=True).start()


def _hesitate(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of a thread of this worker, unless it is that the parent has ended."""
    if isinstance(error, OSError | EOFError):
        time.sleep(0.5)  # then this process ends meanwhile
    sys.__excepthook__(kind, error, trace)


def _outlive_no_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # without a word on the queues that broke


def _await_the_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass  # sent to all processes of the command: the parent ends the training first
    os._exit(0)
