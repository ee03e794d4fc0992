"""A piece of a benchmark on a machine of a cluster: a process that ends when the one that asked for it does, however
that ends. Standard library only, but for the tether (see `launch.tether`)."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryFile

from hyperrule.launch import tether

LOOKED_AT = 0.2  # seconds between two looks at the process: Ray cancels between two statements
LAST_WORDS = 20  # lines


def carry_out(arguments: Sequence[str], folder: str, environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run Python with these arguments in the folder, with these variables besides the machine's own.

    Returns the exit code, 128 + signal if one killed it, and the last lines of its stderr, all of which goes to that
    of this process when it has ended.
    """
    order = {
        "argv": [sys.executable, *arguments],
        "cwd": folder,
        "environment": dict(environment),
        "announce": False,
    }
    with (
        TemporaryFile() as said,
        Popen(
            [sys.executable, "-P", tether.__file__], stdin=PIPE, stdout=DEVNULL, stderr=said, start_new_session=True
        ) as process,
    ):
        assert process.stdin is not None
        with process.stdin as line:  # cut when this block ends, also by an exception, or this process
            line.write(f"{json.dumps(order)}\n".encode())
            line.flush()
            while process.poll() is None:
                time.sleep(LOOKED_AT)
        code = process.wait()
        said.seek(0)
        words = said.read().decode(errors="replace")
    sys.stderr.write(words)
    return 128 - code if code < 0 else code, words.splitlines()[-LAST_WORDS:]
