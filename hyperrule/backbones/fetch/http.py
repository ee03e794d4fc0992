"""Files over HTTP: how large they are, downloads that go on where they broke, and failures in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.error import URLError

import requests
import urllib3

from hyperrule.errors import BackboneError
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import MIB, size

TIMEOUT = 30.0  # seconds without a byte
WRAPPERS = (requests.RequestException, urllib3.exceptions.HTTPError, URLError)  # their context is the reason


def opened(url: str, first: int = 0, verify: bool = True) -> requests.Response:
    """The answer to GET, its body from byte `first` on still to be read. Raises requests' exceptions."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={first}-"} if first else {})
    response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT, verify=verify)
    if not first or response.status_code != requests.codes.requested_range_not_satisfiable:
        response.raise_for_status()
    return response


def complete(part: Path, url: str, reporter: Reporter) -> None:
    """Download into `part`, which goes on where it stopped if the server still has what it was begun from.

    Raises OSError, requests' exceptions included, and leaves what has arrived.
    """
    origin = part.with_name(f"{part.name}.origin")
    # The last byte is asked for again: there may be no other, and a range of none is an error.
    begun = max(part.stat().st_size - 1, 0) if part.exists() and origin.exists() else 0
    response = opened(url, begun)
    if begun and not (_starts_at(begun, response) and _origin(response, begun) == origin.read_text(encoding="utf-8")):
        response.close()
        begun, response = 0, opened(url)
    with response:
        left = response.raw.length_remaining
        total = None if left is None else begun + left
        here = f", {size(begun)} of it already here" if begun else ""
        reporter.say(f"Downloading {url} ({size(total)}{here}) to {part.parent}.")
        stage = reporter.stage("download", -(-total // MIB), begun // MIB) if total else nullcontext(lambda *_: None)
        with stage as report, part.open("r+b" if begun else "wb") as stream:
            origin.write_text(_origin(response, begun) or "", encoding="utf-8")  # what was there before is gone by now
            stream.seek(begun)
            for chunk in response.iter_content(MIB):
                stream.write(chunk)
                report(-(-stream.tell() // MIB), "MiB")
    if total not in (None, part.stat().st_size):
        raise OSError(f"{part.stat().st_size} of {total} bytes arrived")
    origin.unlink()


@contextmanager
def failures_told(what: str, instead: str, kind: type[Exception] = OSError) -> Iterator[None]:
    """Turns what fails within the block into a BackboneError of one line: what, why, and what to do instead."""
    outer = sys.exception()  # the caller may be handling an error of its own
    try:
        yield
    except BackboneError:
        raise
    except kind as error:
        raise BackboneError(f"{what}: {_why(error, outer)}; {instead}.") from None


def _why(error: BaseException, outer: BaseException | None) -> str:
    """The innermost reason, in at most 200 characters."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    via = "the proxy, " if isinstance(error, requests.exceptions.ProxyError) else ""
    while isinstance(error, WRAPPERS) and (inner := error.__cause__ or error.__context__) not in (None, outer):
        error = inner
    text = (isinstance(error, OSError) and error.strerror) or str(error).strip() or type(error).__name__
    return via + text.splitlines()[0][:200].rstrip(".: ")


def _starts_at(begun: int, response: requests.Response) -> bool:
    return str(response.headers.get("Content-Range")).startswith(f"bytes {begun}-")


def _origin(response: requests.Response, begun: int) -> str | None:
    """Tells two states of a file on the server apart; None if the server gives no means to."""
    tag, date = response.headers.get("ETag"), response.headers.get("Last-Modified")
    return f"{tag} {date} {begun + (response.raw.length_remaining or 0)}" if tag or date else None
