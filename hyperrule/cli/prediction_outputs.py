"""Where `hyperrule predict` writes: files, stdout, and text for people."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self, TextIO, cast

import click

from hyperrule.cli.options import writable
from hyperrule.errors import RecipeError, RunError
from hyperrule.prediction.writers import Write, csv_rows, json_array, json_lines, parquet_rows
from hyperrule.support.files import atomic_write
from hyperrule.support.wording import printable

if TYPE_CHECKING:
    from hyperrule.prediction.predictions import Prediction

STDOUT = Path("-")


@dataclass(frozen=True)
class Outputs:
    """What is asked for; of None, nothing. `json` is on stdout, as `csv` and `jsonl` are where they are `STDOUT`."""

    json: bool
    csv: Path | None
    jsonl: Path | None
    parquet: Path | None

    @classmethod
    def checked(cls, as_json: bool, csv: str | None, jsonl: str | None, parquet: str | None) -> Self:
        """Raises RecipeError for files that cannot be written, and for several outputs in one place."""
        if parquet == str(STDOUT):
            raise RecipeError("--parquet needs a FILE: a table of Parquet cannot be written to stdout.")
        flags = {"--csv": csv, "--jsonl": jsonl, "--parquet": parquet}
        places = {flag: STDOUT if name == str(STDOUT) else writable(flag, name) for flag, name in flags.items()}
        taken = {flag: place.absolute() for flag, place in places.items() if place is not None}
        taken |= {"--json": STDOUT.absolute()} if as_json else {}
        if twice := [flag for flag, place in taken.items() if list(taken.values()).count(place) > 1]:
            raise RecipeError(f"{' and '.join(twice)} would write to the same place. Give each a FILE of its own.")
        return cls(as_json, *places.values())

    @contextmanager
    def opened(self, top: int) -> Iterator[list[Write]]:
        """Functions that each take every prediction, of `top` classes. Files take their names when the block ends.

        Raises RunError if one cannot be written.
        """
        with ExitStack() as stack:
            writes: list[Write] = []
            if self.csv is not None:
                writes.append(csv_rows(stack.enter_context(_text(self.csv)), top))
            if self.jsonl is not None:
                writes.append(json_lines(stack.enter_context(_text(self.jsonl))))
            if self.parquet is not None:
                partial = stack.enter_context(atomic_write(self.parquet))
                writes.append(stack.enter_context(parquet_rows(partial, top)))
            if self.json:
                writes.append(stack.enter_context(json_array(stack.enter_context(_stdout()))))
            yield writes or [people(stack.enter_context(_stdout()))]


def people(stream: TextIO) -> Write:
    """The image, and a line for each of its classes; names come last, for they have any length."""
    coloured = stream.isatty() and "NO_COLOR" not in os.environ

    def write(prediction: "Prediction") -> None:
        lines = [click.style(printable(prediction.image), bold=True)]
        if prediction.error is not None:
            lines.append(click.style(f"  cannot be decoded: {printable(prediction.error)}", fg="red"))
        for place, found in enumerate(prediction.classes):
            wnid = f"{found.wnid}  " if found.wnid else ""
            line = f"  {found.score:8.2%}  {wnid}{printable(found.class_name)}"
            if prediction.abstained and place == 0:
                line = f"  uncertain: {wnid}{printable(found.class_name)} {found.score:.0%}"
            lines.append(click.style(line, dim=True) if place or prediction.abstained else line)
        text = "".join(f"{line}\n" for line in lines)
        stream.write(text if coloured else click.unstyle(text))

    return write


@contextmanager
def _text(place: Path) -> Iterator[TextIO]:
    if place == STDOUT:
        with _stdout() as stream:
            yield stream
    else:
        with atomic_write(place) as partial, partial.open("wb") as binary, _utf8(binary) as stream:
            yield stream


@contextmanager
def _stdout() -> Iterator[TextIO]:
    if sys.stdout.isatty():
        yield cast("TextIO", _Terminal())
    else:
        try:
            # Taken now: a live display of progress takes the place of sys.stdout while it is on.
            with _utf8(sys.stdout.buffer) as stream:
                yield stream
        except BrokenPipeError:  # whoever reads has enough
            raise
        except OSError as error:
            raise RunError(f"cannot write to stdout: {error.strerror or error}.") from None


class _Terminal:
    """A terminal that may show progress as well: whatever stands for sys.stdout puts lines above it."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def isatty(self) -> bool:
        return True


@contextmanager
def _utf8(binary: BinaryIO) -> Iterator[TextIO]:
    """Line ends as they are written, and of names that are not UTF-8 the bytes as escapes."""
    stream = TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", newline="")
    try:
        yield stream
        stream.flush()
    finally:
        with suppress(OSError):  # of what could not be flushed
            stream.detach()
