"""Columns of CSV, TSV, JSON lines and Parquet tables, with row numbers as an editor shows them."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from hyperrule.data.images import Indices
from hyperrule.errors import DataError
from hyperrule.support.wording import listed

SEPARATORS = ";\t,|"  # tried in this order if the header lacks the usual one
JSON_BLOCK = 2**24  # bytes; no row may be longer
FIRST_ROWS = 100  # of JSON lines, from which columns and types are inferred
KINDS = {str: "text", int: "numbers", float: "numbers", bool: "true or false", list: "lists", dict: "objects"}


class Table(Protocol):
    """A table with the column `names`. `typed` says whether it distinguishes the text "3" from the number 3."""

    @property
    def path(self) -> Path: ...
    @property
    def typed(self) -> bool: ...
    @property
    def names(self) -> Sequence[str]: ...
    def read(self, names: Sequence[str]) -> pa.Table:
        """Read these columns; they are text if the table is not typed. Raises DataError for damaged rows."""
        ...

    def numbers(self, rows: Indices) -> Indices:
        """Convert row indices (from 0) to the row numbers that the user sees (from 1). Reads the table again."""
        ...


def open_table(path: Path) -> Table:
    """Open a table by its suffix: .csv, .tsv, .jsonl, .ndjson or .parquet. Raises OSError."""
    path.open("rb").close()  # the operating system's message is clearer than Arrow's
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return Parquet(path)
    return JsonLines(path) if suffix in (".jsonl", ".ndjson") else SeparatedText(path)


@dataclass(frozen=True)
class SeparatedText:
    """A header, then one row per line, in UTF-8; quoted cells may span lines. Row 1 is the header."""

    path: Path
    typed = False

    @property
    def names(self) -> Sequence[str]:
        return [name.strip() for name in self._header]

    @cached_property
    def _header(self) -> list[str]:
        header = next((cells for _, cells in self._records()), [])
        if not _is_text(header):
            raise DataError(f"{self.path} is not UTF-8 text. Save it as CSV in UTF-8.")
        return header

    @cached_property
    def separator(self) -> str:
        usual = "\t" if self.path.suffix.lower() == ".tsv" else ","
        with self._open() as stream:
            header = next((line for line in stream if line.strip()), "")
        return usual if usual in header else next((other for other in SEPARATORS if other in header), usual)

    def read(self, names: Sequence[str]) -> pa.Table:
        raw = [self._header[self.names.index(name)] for name in names]
        try:
            table = pa.csv.read_csv(
                self.path,
                parse_options=pa.csv.ParseOptions(delimiter=self.separator, newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=raw,
                    column_types=dict.fromkeys(raw, pa.string()),
                    null_values=[],  # a class may be called NA
                ),
            )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._fault(error) from None
        return table.rename_columns(list(names))

    def numbers(self, rows: Indices) -> Indices:
        lines = np.fromiter((line for line, _ in self._records()), np.int64)
        return lines[1:][rows]

    def _fault(self, error: Exception) -> DataError:
        undecodable, ragged = [], []
        for line, cells in self._records():
            if not _is_text(cells):
                undecodable.append(str(line))
            if len(cells) != len(self._header):
                ragged.append(f"row {line} has {len(cells)}")
        if undecodable:
            return DataError(f"{self.path} is not UTF-8 text in row {listed(undecodable)}. Save it as CSV in UTF-8.")
        if ragged:
            return DataError(
                f"the header of {self.path} has {len(self._header)} cells, but {listed(ragged)}. "
                f"Cells that contain {self.separator!r} or quotes must be quoted."
            )
        return DataError(f"cannot read {self.path}: {_first_line(error)}.")

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the first line number and the cells of every row, header included; skip empty lines."""
        with self._open() as stream:
            reader = csv.reader(stream, delimiter=self.separator)
            line = 1
            try:
                for cells in reader:
                    if cells:
                        yield line, cells
                    line = reader.line_num + 1
            except csv.Error as error:
                raise DataError(f"row {line} of {self.path} is not CSV: {error}. Is a quote missing?") from None

    def _open(self) -> Any:
        return self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


@dataclass(frozen=True)
class JsonLines:
    """One JSON object per line. Row 1 is the first line."""

    path: Path
    typed = True

    @property
    def names(self) -> Sequence[str]:
        return list(self._first_values)

    @cached_property
    def _first_values(self) -> dict[str, Any]:
        """A value of every column, from the first rows; None if all are null."""
        values: dict[str, Any] = {}
        for (_, row), _ in zip(self._rows(), range(FIRST_ROWS), strict=False):
            values |= {name: value for name, value in row.items() if values.get(name) is None}
        return values

    def read(self, names: Sequence[str]) -> pa.Table:
        for number in (pa.int64(), pa.float64()):  # 3 and 3.0 are two types to Arrow
            types = {str: pa.string(), type(None): pa.string(), bool: pa.bool_(), int: number, float: number}
            schema = [(name, types.get(type(self._first_values[name]), pa.string())) for name in names]
            try:
                return pa.json.read_json(
                    self.path,
                    read_options=pa.json.ReadOptions(block_size=JSON_BLOCK),
                    parse_options=pa.json.ParseOptions(
                        explicit_schema=pa.schema(schema), unexpected_field_behavior="ignore"
                    ),
                ).select(list(names))
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                fault: Exception = error
        raise self._fault(names, fault)

    def numbers(self, rows: Indices) -> Indices:
        return np.fromiter((number for number, _ in self._lines()), np.int64)[rows]

    def _fault(self, names: Sequence[str], error: Exception) -> DataError:
        first_rows: dict[str, dict[str, int]] = {name: {} for name in names}
        for number, row in self._rows():
            for name in names:
                if (value := row.get(name)) is not None:
                    first_rows[name].setdefault(KINDS[type(value)], number)
        for name, kinds in first_rows.items():
            if len(kinds) > 1 or {"lists", "objects"} & set(kinds):
                said = " and ".join(f"{kind} (row {number})" for kind, number in kinds.items())
                return DataError(
                    f"column {name!r} of {self.path} holds {said}. Write one text or one number per image; put "
                    "numbers that are names in quotes."
                )
        return DataError(f"cannot read {self.path}: {_first_line(error)}.")

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in self._lines():
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                raise DataError(f"row {number} of {self.path} is not UTF-8 text. Save it in UTF-8.") from None
            except json.JSONDecodeError as error:
                why = f"{error.msg.rstrip(':')} at character {error.pos + 1}"
                raise DataError(f"row {number} of {self.path} is not JSON: {why}. Write one object per line.") from None
            except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
                raise DataError(f"row {number} of {self.path} cannot be read: {error}.") from None
            if not isinstance(row, dict):
                raise DataError(f"row {number} of {self.path} is not a JSON object {{...}}. Write one object per line.")
            yield number, row

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line


@dataclass(frozen=True)
class Parquet:
    """A Parquet file; row 1 is the first. Categories (dictionaries) are read as their values."""

    path: Path
    typed = True

    @property
    def names(self) -> Sequence[str]:
        names: list[str] = self._file.schema_arrow.names
        return names

    @cached_property
    def _file(self) -> Any:
        try:
            return pa.parquet.ParquetFile(self.path, memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise self._fault(error) from None

    def read(self, names: Sequence[str]) -> pa.Table:
        try:
            return self._file.read(columns=list(names))
        except (pa.ArrowException, OSError) as error:
            raise self._fault(error) from None

    def numbers(self, rows: Indices) -> Indices:
        return rows + 1

    def _fault(self, error: Exception) -> DataError:
        return DataError(f"{self.path} is not a complete Parquet file: {_first_line(error)}. Write or copy it again.")


def _is_text(cells: Sequence[str]) -> bool:
    """Return whether all bytes were UTF-8: other bytes have been read as surrogates."""
    return not any("\udc80" <= character <= "\udcff" for cell in cells if not cell.isascii() for character in cell)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200].rstrip(". ")
