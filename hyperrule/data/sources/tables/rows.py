"""The rows of a table that are used: their text, and how to speak of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperrule.data.images import Indices
from hyperrule.data.sources.tables.table import Table
from hyperrule.errors import DataError
from hyperrule.support.wording import NAMED_AT_MOST, listed

TEXT_OR_INTEGERS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_null,
)


@dataclass(frozen=True)
class Rows:
    """Rows `rows` (int64 [n], counted from 0) of a table."""

    table: Table
    rows: Indices

    def distinct(self, name: str, column: pa.ChunkedArray) -> tuple[npt.NDArray[np.object_], npt.NDArray[Any]]:
        """The texts that the column has in these rows, each once, and of every row which it is (integers [n]).

        Raises DataError if any is empty, or not of a type that `as_text` takes.
        """
        texts, which = distinct(as_text(column, f"column {name!r} of {self.table.path}"))
        if len(self.rows) < len(which):
            used, which = np.unique(which[self.rows], return_inverse=True)
            texts = texts[used]
        empty = np.flatnonzero(np.array([not text.strip() for text in texts], np.bool_)[which])
        if len(empty):
            raise DataError(
                f"column {name!r} of {self.table.path} is empty in {self.numbered(empty)}. Every image needs a path "
                "and a label: fill them in, or delete these rows."
            )
        return texts, which

    def numbered(self, members: Indices) -> str:
        """The rows of those numbers as the user sees them: "row 2, 3, 4, 5, 6 and 2 more"."""
        return f"row {listed([*map(str, self.numbers(members[:NAMED_AT_MOST])), *members[NAMED_AT_MOST:]])}"

    def numbers(self, members: Indices) -> Indices:
        return self.table.numbers(self.rows[members])


def as_text(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """The column as large_string: integers, and floats that are whole, as integers; NaN and null as "".

    Raises DataError for fractions, for types whose values are neither names nor integers, and for text not in UTF-8.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            column = column.cast(pa.int64())
    except pa.ArrowInvalid:
        raise DataError(f"{where} holds fractions ({column.type}). A class is a name or an integer.") from None
    if not any(is_known(column.type) for is_known in TEXT_OR_INTEGERS):
        raise DataError(f"{where} holds {column.type}. It must hold text or integers, one an image.")
    text = column.cast(pa.large_string())
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        raise DataError(f"{where} holds text that is not UTF-8. Write it in UTF-8.") from None
    return text.fill_null("") if text.null_count else text


def distinct(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.object_], npt.NDArray[Any]]:
    """The distinct texts of the column in their order, and of every row the number of its text (int32 [n])."""
    encoded = column.dictionary_encode().combine_chunks()
    pa.default_memory_pool().release_unused()  # 100 MB of a million paths, which Arrow would keep
    # Not to_numpy(), which imports pandas where there is one: half a second and 30 MB.
    return np.array(encoded.dictionary.to_pylist(), object), np.from_dlpack(encoded.indices)
