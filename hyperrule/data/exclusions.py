"""Images to leave out: the file that `hyperrule check --write-exclusions` writes and `--exclude` reads."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperrule.data.images import Indices
from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as, whole_file
from hyperrule.support.wording import listed

HEADER = ("id", "reason")


@dataclass(frozen=True)
class Exclusions:
    """Ids of images that must not be used, and the file that says so."""

    ids: frozenset[str] = frozenset()
    origin: Path | None = None

    def remaining(self, members: Indices, ids: Sequence[str]) -> Indices:
        """The numbers among `members` of images that stay. Raises DataError for ids that no image has."""
        if not self.ids:
            return members
        unknown = self.ids.difference(ids)
        if unknown:
            raise DataError(
                f"{self.origin} excludes {len(unknown)} images that the data set does not have: "
                f"{listed(map(repr, sorted(unknown)))}. Ids are such as {ids[0]!r}. Is it the file of another data set?"
            )
        return members[np.fromiter((ids[index] not in self.ids for index in members), np.bool_, len(members))]


def read_exclusions(file: Path) -> Exclusions:
    """CSV with a column `id`. Raises DataError if the file cannot be read or has no such column."""
    with os_errors_as(DataError, f"cannot read --exclude {file}"):
        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                rows = csv.DictReader(stream)
                if "id" not in (rows.fieldnames or ()):
                    raise DataError(
                        f"{file} has no column 'id'. Received: {listed(rows.fieldnames or ()) or 'nothing'}. "
                        "--exclude takes the CSV that 'hyperrule check --write-exclusions FILE' writes."
                    )
                return Exclusions(frozenset(row["id"] for row in rows if row["id"]), file)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{file} is not CSV: {error}.") from None


def write_exclusions(file: Path, reasons: Iterable[tuple[str, str]]) -> None:
    """Ids and reasons, a row each."""
    with whole_file(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(HEADER)
        writer.writerows(reasons)
