"""The text of a CSV file: RFC 4180 quoting, lines that end in a plain newline, nothing for None."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any


def csv_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A header and its rows."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
