"""What a training writes down as it goes: tables for people, events for TensorBoard."""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a column for every name that occurs in any row."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({n: "" if v is None else v for n, v in row.items()} for row in rows)
    return text.getvalue()


@contextlib.contextmanager
def events(live: Path, step: int, rank: int) -> Iterator[Any]:
    """A TensorBoard writer; events after `step` of a run that was cut are superseded."""
    if rank != 0:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(live), purge_step=step + 1 if step else None)
    try:
        yield writer
    finally:
        writer.close()
