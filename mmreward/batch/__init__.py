"""Many edits: files and folders in, one row of scores per row out."""

__all__ = [
    "FIELDS",
    "STANDARD_OUTPUT",
    "Row",
    "Rows",
    "Scored",
    "check_output",
    "read_rows",
    "score_rows",
    "write_rows",
]

from mmreward.batch.inputs import read_rows
from mmreward.batch.output import STANDARD_OUTPUT, check_output, write_rows
from mmreward.batch.rows import FIELDS, Row, Rows
from mmreward.batch.run import Scored, score_rows
