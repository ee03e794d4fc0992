"""The ledger of a benchmark: ledger.jsonl, a line for every finished cell, kept whatever happens to its writers.

Who is at work on a cell: a lock on a file of its key, which the system gives back when a process dies.
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

FORMAT: Literal[1] = 1

Method = Literal["probe", "head", "finetune", "finetune-probe"]
Shots = int | Literal["full"]


class Line(BaseModel):
    """What one cell gave. `key` is a SHA-256 of everything that can change it.

    `shots` are images a class, `seed` that of the subset and of the training. Of a cell that is done, `top1` is the
    accuracy, a fraction, on `examples` test images of `size` x `size` pixels after `trained_on` images, and of a probe
    `l2` what it was fitted with; of a failed one, `error` says why in one line. `seconds` are of the cell alone,
    without what it shares with others, such as features. `data_sha256` covers images, classes and splits;
    `weights_sha256` is None for random weights. `settings` are what a training was asked for besides.
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
    """The last line of every key, in the order in which they came; none where there is no file.

    Half a line at the end, of a writer that was killed, does not count. Raises RunFolderError for a ledger of another
    format, and for any other line that is none.
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
    """Add a line, on the disk when this returns; half a line that a killed writer left is removed first.

    Other processes may do the same at the same time. Raises RunError if it cannot be written.
    """
    with os_errors_as(RunError, f"cannot write {path}"), path.open("ab+") as stream:
        lock_stream(stream)
        _mend(stream)
        stream.write(line.model_dump_json().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _mend(stream: BinaryIO) -> None:
    """Make the file end with the end of a line."""
    stream.seek(0)
    content = stream.read()
    last = content[content.rfind(b"\n") + 1 :]
    if last and _is_whole(last):
        stream.write(b"\n")
    elif last:
        stream.truncate(len(content) - len(last))


def _is_whole(text: bytes) -> bool:
    """An object that was cut short is no JSON."""
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
                "Go on with the version that began it, or begin anew with another --out."
            )
        return Line.model_validate(stored)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise RunFolderError(f"line {number} of {path} is damaged: {' '.join(str(error).split())[:160]}") from None


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
