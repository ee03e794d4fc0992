"""Writes what `hyperrule predict` outputs: files, JSON or CSV on stdout, or text for people."""

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
    """The requested outputs: a file, or `STDOUT`, for each format; None for no output. `json` goes to stdout."""

    json: bool
    csv: Path | None
    jsonl: Path | None
    parquet: Path | None

    @classmethod
    def checked(cls, as_json: bool, csv: str | None, jsonl: str | None, parquet: str | None) -> Self:
        """Return the outputs. Raises RecipeError if a file cannot be written, or if two outputs share one place."""
        if parquet == str(STDOUT):
            raise RecipeError("--parquet needs a FILE: a Parquet table cannot be written to stdout.")
        flags = {"--csv": csv, "--jsonl": jsonl, "--parquet": parquet}
        places = {flag: STDOUT if name == str(STDOUT) else writable(flag, name) for flag, name in flags.items()}
        taken = {flag: place.absolute() for flag, place in places.items() if place is not None}
        taken |= {"--json": STDOUT.absolute()} if as_json else {}
        if twice := [flag for flag, place in taken.items() if list(taken.values()).count(place) > 1]:
            raise RecipeError(f"{' and '.join(twice)} would write to the same place. Give each its own FILE.")
        return cls(as_json, *places.values())

    @contextmanager
    def opened(self, top: int) -> Iterator[list[Write]]:
        """Yield functions, one per output, that each write one prediction of `top` classes.

        Files get their names when the block ends.

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
    """Return a function that prints the image and a line for each class; names, of any length, come last."""
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
            # Taken now: a live progress display replaces sys.stdout while it runs.
            with _utf8(sys.stdout.buffer) as stream:
                yield stream
        except BrokenPipeError:  # the reader has closed the pipe
            raise
        except OSError as error:
            raise RunError(f"cannot write to stdout: {error.strerror or error}.") from None


class _Terminal:
    """A terminal that may show progress too: it writes to the current sys.stdout, which prints above the progress."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def isatty(self) -> bool:
        return True


@contextmanager
def _utf8(binary: BinaryIO) -> Iterator[TextIO]:
    """Yield a UTF-8 stream that keeps line ends as written, and escapes the bytes of names that are not UTF-8."""
    stream = TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", newline="")
    try:
        yield stream
        stream.flush()
    finally:
        with suppress(OSError):  # what could not be flushed fails again here
            stream.detach()
