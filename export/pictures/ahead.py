"""Decode pictures in threads, ahead of the engine that takes them."""

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Decoded = TypeVar("_Decoded")

MOST_THREADS = 4


def decoded_ahead(
    indices: Sequence[int], batch: int, decode: Callable[[int], _Decoded]
) -> Generator[tuple[list[int], list[_Decoded]], None, None]:
    """Yield groups of `batch` indices, the last one smaller, with what `decode` returns for each.

    While a group is in use, at least the next one is being decoded. An error of `decode` is raised
    at its group; pictures after it, or after the last group that was taken, are not decoded.
    """
    groups = deque(list(indices[start : start + batch]) for start in range(0, len(indices), batch))
    workers = min(MOST_THREADS, os.cpu_count() or 1)
    pending: deque[tuple[list[int], list[Future[_Decoded]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            while groups or pending:
                while groups and len(pending) < 2 + workers // batch:
                    members = groups.popleft()
                    pending.append((members, [pool.submit(decode, index) for index in members]))
                members, futures = pending.popleft()
                yield members, [future.result() for future in futures]
        finally:  # do not wait for pictures that are no longer needed
            pool.shutdown(wait=False, cancel_futures=True)
