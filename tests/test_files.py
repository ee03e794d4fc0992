"""Locks and files that are written whole or not at all, between processes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperrule.errors import RunError, RunFolderError
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import atomic_write, file_lock, try_file_lock

HOLD = """
import sys
from pathlib import Path
from hyperrule.support.files import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> "subprocess.Popen[str]":
    """A process that holds tmp_path/lock until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_held_by_one_process_and_released_by_its_death(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with try_file_lock(tmp_path / "lock") as lock:
        assert lock is None
    start = time.monotonic()
    with try_file_lock(tmp_path / "lock", patience=0.3) as lock:
        assert lock is None
    assert time.monotonic() - start >= 0.3
    holder.kill()
    holder.communicate()
    with try_file_lock(tmp_path / "lock", patience=5.0) as lock:
        assert lock is not None
    with file_lock(tmp_path / "lock"), try_file_lock(tmp_path / "lock") as second:
        assert second is None
    assert (tmp_path / "lock").exists()


def test_the_lock_of_a_finished_run_stays_the_same_file(tmp_path: Path) -> None:
    """One that is removed could be held by two processes: by one that has opened it before, and one that makes it."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.card_file.touch()
    assert run.finished
    with run.locked():
        inode = run.lock_file.stat().st_ino
        with pytest.raises(RunFolderError, match="in use"), RunFolder(run.path).locked():
            pass
    assert run.lock_file.stat().st_ino == inode


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")

    def write() -> None:
        with atomic_write(file) as partial:
            partial.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"cannot write .*file: the disk is full"):
        write()
    assert (file.read_text(), list(tmp_path.iterdir())) == ("before", [file])
