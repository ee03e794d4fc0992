"""Whether there is a Ray cluster at an address, told soon: `ray.init` by itself tries for minutes."""

import socket
import subprocess
import sys

from hyperrule.errors import UserError
from hyperrule.support.wording import printable

ACCEPTS = 5.0  # seconds for a connection
ANSWERS = 45.0  # seconds for a driver to start and be welcome; 4 on an idle machine
DRIVER = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='critical')"


def check_cluster(address: str) -> None:
    """Raises UserError unless a driver on this machine can connect to the cluster at "auto" or "HOST:PORT"."""
    if address != "auto":
        _check_listener(address)
    try:
        driver = subprocess.run(
            [sys.executable, "-c", DRIVER, address], stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWERS
        )
    except subprocess.TimeoutExpired:
        raise _none_at(address, f"no answer in {ANSWERS:.0f} s") from None
    if driver.returncode:
        said = driver.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {driver.returncode}"]
        raise _none_at(address, said[-1])


def _check_listener(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--address takes auto or HOST:PORT, such as 10.0.0.1:6379. Received: {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ACCEPTS).close()
    except (OSError, UnicodeError) as error:
        raise _none_at(address, getattr(error, "strerror", None) or str(error)) from None


def _none_at(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster at --address {printable(address)}: {printable(reason)}. "
        "`ray status` on this machine, which has to be one of the cluster's, shows what it knows of it."
    )
