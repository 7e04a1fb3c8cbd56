"""Base class of records that are measured and written to JSON."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Part of a JSON file that this project writes.

    Keys that a class does not declare are kept, so that a file written by another version reads
    and writes back without loss. NaN and infinity are refused: JSON has neither.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", allow_inf_nan=False, populate_by_name=True
    )
