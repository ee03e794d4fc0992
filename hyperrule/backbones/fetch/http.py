"""HTTP downloads that resume where they were interrupted, with one-line errors."""

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

TIMEOUT = 30.0  # seconds without data
WRAPPERS = (requests.RequestException, urllib3.exceptions.HTTPError, URLError)  # their cause has the reason


def opened(url: str, first: int = 0, verify: bool = True) -> requests.Response:
    """Send a GET request for the bytes from `first` on; the caller reads the body. Raises requests' exceptions."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={first}-"} if first else {})
    response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT, verify=verify)
    if not first or response.status_code != requests.codes.requested_range_not_satisfiable:
        response.raise_for_status()
    return response


def complete(part: Path, url: str, reporter: Reporter) -> None:
    """Download into `part`. If it exists and the server's file has not changed, resume where it ends.

    Raises OSError, which includes requests' exceptions, and keeps the bytes received.
    """
    origin = part.with_name(f"{part.name}.origin")
    # Request the last byte again: the part may be complete, and an empty range is an error.
    begun = max(part.stat().st_size - 1, 0) if part.exists() and origin.exists() else 0
    response = opened(url, begun)
    if begun and not (_starts_at(begun, response) and _origin(response, begun) == origin.read_text(encoding="utf-8")):
        response.close()
        begun, response = 0, opened(url)
    with response:
        left = response.raw.length_remaining
        total = None if left is None else begun + left
        here = f", {size(begun)} of it already downloaded" if begun else ""
        reporter.say(f"Downloading {url} ({size(total)}{here}) to {part.parent}.")
        stage = reporter.stage("download", -(-total // MIB), begun // MIB) if total else nullcontext(lambda *_: None)
        with stage as report, part.open("r+b" if begun else "wb") as stream:
            # Only now, since `open` has truncated the bytes of any other origin.
            origin.write_text(_origin(response, begun) or "", encoding="utf-8")
            stream.seek(begun)
            for chunk in response.iter_content(MIB):
                stream.write(chunk)
                report(-(-stream.tell() // MIB), "MiB")
    if total not in (None, part.stat().st_size):
        raise OSError(f"{part.stat().st_size} of {total} bytes arrived")
    origin.unlink()


@contextmanager
def backbone_errors(what: str, instead: str, kind: type[Exception] = OSError) -> Iterator[None]:
    """Turn an error within the block into a one-line BackboneError: `what` failed, the reason, what to do `instead`."""
    outer = sys.exception()  # the caller is handling this one, so it is not the cause
    try:
        yield
    except BackboneError:
        raise
    except kind as error:
        raise BackboneError(f"{what}: {_why(error, outer)}; {instead}.") from None


def _why(error: BaseException, outer: BaseException | None) -> str:
    """Return the innermost reason, in at most 200 characters."""
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
    """Return a string that changes with the file on the server; None if the server sends neither ETag nor date."""
    tag, date = response.headers.get("ETag"), response.headers.get("Last-Modified")
    return f"{tag} {date} {begun + (response.raw.length_remaining or 0)}" if tag or date else None
