"""The ledger of a benchmark, ledger.jsonl: a line for every finished cell, safe against writers that are killed.

A process that measures a cell holds a lock on the file of the cell's key; the system releases it when the process dies.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hyperrule.errors import RunError, RunFolderError
from hyperrule.support.files import lock_stream, os_errors_as, try_file_lock
from hyperrule.support.wording import one_line

FORMAT: Literal[1] = 1

Method = Literal["probe", "head", "finetune", "finetune-probe"]
Shots = int | Literal["full"]


class Line(BaseModel):
    """The result of one cell. `key` is a SHA-256 of everything that can change it.

    `shots` are images per class; `seed` is that of the subset and of the training. A finished cell has `top1`, the
    accuracy as a fraction, on `examples` test images of `size` x `size` pixels after training on `trained_on` images;
    a probe has the `l2` it was fitted with. A failed cell has the reason in `error`, one line. `seconds` are the cell's
    own, without work shared with others, such as features. `data_sha256` covers images, classes and splits;
    `weights_sha256` is None for random weights. `settings` has the other decisions of a training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    key: str
    dataset: str
    backbone: str
    method: Method
    shots: Shots
    seed: int
    status: Literal["done", "failed"]
    top1: float | None = None
    examples: int | None = None
    trained_on: int | None = None
    size: int
    seconds: float
    l2: float | None = None
    error: str | None = None
    data_sha256: str
    weights_sha256: str | None
    versions: dict[str, str]
    settings: dict[str, str | int | float | bool | None] = {}


def read_ledger(path: Path) -> list[Line]:
    """Return the last line of every key, in the order of the file; no lines if there is no file.

    An incomplete line at the end, from a writer that was killed, is ignored. Raises RunFolderError for a ledger of
    another format, and for any other damaged line.
    """
    if not path.exists():
        return []
    with os_errors_as(RunFolderError, f"cannot read {path}"):
        texts = path.read_bytes().splitlines(keepends=True)
    if texts and not _is_whole(texts[-1]):
        texts.pop()
    lines = (_parsed(path, number, text) for number, text in enumerate(texts, start=1))
    return list({line.key: line for line in lines}.values())


def append(path: Path, line: Line) -> None:
    """Add a line, which is on disk when this returns. An incomplete line that a killed writer left is removed first.

    Several processes may do this at the same time. Raises RunError if the line cannot be written.
    """
    with os_errors_as(RunError, f"cannot write {path}"), path.open("ab+") as stream:
        lock_stream(stream)
        _mend(stream)
        stream.write(line.model_dump_json().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _mend(stream: BinaryIO) -> None:
    """Complete or remove an unfinished last line."""
    stream.seek(0)
    content = stream.read()
    last = content[content.rfind(b"\n") + 1 :]
    if last and _is_whole(last):
        stream.write(b"\n")
    elif last:
        stream.truncate(len(content) - len(last))


def _is_whole(text: bytes) -> bool:
    """Whether a last line is complete: an object that was cut off is not valid JSON."""
    try:
        json.loads(text)
    except ValueError:
        return text.endswith(b"\n")
    return True


def _parsed(path: Path, number: int, text: bytes) -> Line:
    try:
        stored = json.loads(text)
        if stored["format"] != FORMAT:
            raise RunFolderError(
                f"{path} has format {stored['format']}; this version reads {FORMAT}. "
                "Continue with the version that began it, or start again with another --out."
            )
        return Line.model_validate(stored)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise RunFolderError(f"line {number} of {path} is damaged: {one_line(error, 160)}") from None


LOOKED_AT = 0.05  # seconds in which whoever asks `at_work` has let go of a lock again


@contextmanager
def claim(folder: Path, key: str, what: str, patience: float = LOOKED_AT) -> Iterator[bool]:
    """Whether the cell is this process's for the block; not, if another process is at work on it, and still is after
    `patience` seconds. `what` tells people."""
    with ExitStack() as held:
        with os_errors_as(RunError, f"cannot lock a cell in {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(try_file_lock(folder / key, patience))
        if lock is not None:
            lock.truncate(0)
            lock.write(what)
            lock.flush()
        yield lock is not None


def at_work(folder: Path) -> dict[str, str]:
    """What processes are at work on, by key."""
    found = {}
    for file in sorted(folder.glob("*")):
        with try_file_lock(file) as lock:
            if lock is None:
                found[file.name] = file.read_text()
    return found
