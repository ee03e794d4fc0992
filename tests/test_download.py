"""Files of the BiT bucket from a server on the loopback interface: resumed, recorded, or refused in one line."""

import hashlib
import io
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from loopback import Answer, Heard, Loopback

from hyperrule.backbones.fetch import http
from hyperrule.backbones.fetch.bucket import Weights, cached, fetch, verified
from hyperrule.errors import BackboneError
from hyperrule.support.files import cache_folder, file_lock
from hyperrule.support.progress import Reporter

FILE = "distill/R50x1_160.npz"
PATH = f"/{FILE}"


def npz(seed: int = 0) -> bytes:
    """A .npz file of 3 MiB."""
    stream = io.BytesIO()
    np.savez(stream, noise=np.random.default_rng(seed).integers(0, 256, 3 * 2**20, dtype=np.uint8))
    return stream.getvalue()


BODY = npz()
CHANGED = npz(1)
TAG = {"ETag": '"one"'}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Loopback() as server:
        monkeypatch.setenv("HYPERRULE_BIT_MIRROR", server.url)
        server.answers[PATH] = Answer(BODY, headers=TAG)
        yield server


def refused(reporter: Reporter | None = None) -> str:
    """The one line that a fetch ends in."""
    with pytest.raises(BackboneError) as error:
        fetch(FILE, reporter or Reporter(quiet=True))
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert line.endswith(".")
    return line


def files(cache: Path) -> set[str]:
    """Everything in the cache but the locks between processes."""
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and path.name[0] != "."}


def test_downloads_once_and_says_what_before(server: Loopback, cache: Path) -> None:
    heard = Heard()
    assert cached(FILE) is None
    expected = Weights(cache / FILE, hashlib.sha256(BODY).hexdigest())
    assert fetch(FILE, heard) == expected
    assert heard.lines == [f"Downloading {server.url}{PATH} (3.0 MiB) to {cache / 'distill'}."]
    assert files(cache) == {FILE, "weights.lock.json"}
    server.__exit__()
    assert cached(FILE) == cache / FILE
    assert fetch(FILE, heard) == verified(FILE) == expected
    assert len(heard.lines) == 1


@pytest.mark.parametrize("cut", [1, 2**20, len(BODY) - 1])
def test_goes_on_where_the_connection_broke(server: Loopback, cache: Path, cut: int) -> None:
    server.answers[PATH] = [Answer(BODY, headers=TAG, cut=cut), Answer(BODY, headers=TAG)]
    assert f"cannot download {server.url}{PATH}: " in refused()
    assert files(cache) == {f"{FILE}.part", f"{FILE}.part.origin"}
    kept = cut // 2**20 * 2**20  # whole chunks
    assert (cache / f"{FILE}.part").stat().st_size == kept
    heard = Heard()
    fetch(FILE, heard)
    assert (cache / FILE).read_bytes() == BODY
    assert server.sent == [cut, len(BODY) - max(kept - 1, 0)]
    assert server.asked[-1] == (PATH, f"bytes={kept - 1}-" if kept else None)
    assert (f"(3.0 MiB, {kept / 2**20:.1f} MiB of it already downloaded)" in heard.lines[0]) == (kept > 0)
    assert files(cache) == {FILE, "weights.lock.json"}


def test_a_part_that_was_whole_already_is_taken(server: Loopback, cache: Path) -> None:
    server.answers[PATH] = [Answer(BODY, headers=TAG, cut=9), Answer(BODY, headers=TAG)]
    refused()
    (cache / f"{FILE}.part").write_bytes(BODY)
    fetch(FILE, Heard())
    assert server.sent[-1] == 1
    assert (cache / FILE).read_bytes() == BODY


@pytest.mark.parametrize(
    "after",
    [
        Answer(CHANGED, headers={"ETag": '"two"'}),
        Answer(CHANGED),  # nothing tells that it changed, nor that it did not
        Answer(CHANGED, headers=TAG, ranges=False),
        Answer(CHANGED, headers={"Last-Modified": "today"}),
    ],
    ids=["tag", "untold", "no-ranges", "date"],
)
def test_begins_anew_unless_the_file_is_known_to_be_the_same(server: Loopback, cache: Path, after: Answer) -> None:
    server.answers[PATH] = [Answer(BODY, headers=TAG if after.headers else {}, cut=2**20), after]
    refused()
    fetch(FILE, Heard())
    assert (cache / FILE).read_bytes() == CHANGED


def test_begins_anew_when_the_file_became_shorter_than_its_part(server: Loopback, cache: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(9))
    short = stream.getvalue()
    server.answers[PATH] = [Answer(BODY, headers=TAG, cut=2**20), Answer(short, headers=TAG)]
    refused()
    fetch(FILE, Heard())
    assert (cache / FILE).read_bytes() == short


def test_says_so_when_the_size_is_not_told(server: Loopback, cache: Path) -> None:
    server.answers[PATH] = Answer(BODY, length=False)
    heard = Heard()
    fetch(FILE, heard)
    assert "(size unknown)" in heard.lines[0]
    assert (cache / FILE).read_bytes() == BODY


def test_what_is_no_npz_is_not_kept(server: Loopback, cache: Path) -> None:
    server.answers[PATH] = Answer(b"<html>Please log in to this network</html>")
    assert "what the server sent is not a .npz file" in refused()
    assert files(cache) == set()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=404), "the server answered 404 Not Found"),
        (Answer(status=500), "the server answered 500 Internal Server Error"),
        (Answer(status=416), "the server answered 416 "),
        (Answer(status=302, headers={"Location": PATH}), "Exceeded 30 redirects"),
    ],
)
def test_what_the_server_refuses_is_one_line(server: Loopback, cache: Path, answer: Answer, reason: str) -> None:
    server.answers[PATH] = answer
    line = refused()
    assert f"cannot download {server.url}{PATH}: {reason}" in line
    bring = f"download the file yourself: put it at {cache / FILE} (or set HYPERRULE_BIT_MIRROR), or give its path"
    assert line.endswith(f"; {bring} with --backbone.")
    assert files(cache) == set()


def test_nobody_listens(server: Loopback, cache: Path) -> None:
    server.__exit__()
    assert f"cannot download {server.url}{PATH}: Connection refused; " in refused()
    assert files(cache) == set()


def test_no_name_service(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for variable in ("HYPERRULE_BIT_MIRROR", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    url = f"https://storage.googleapis.com/bit_models/{FILE}"
    assert f"cannot download {url}: Name or service not known; " in refused()


def test_a_server_that_says_nothing(server: Loopback, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.1)
    server.answers[PATH] = Answer(hang=True)
    assert f"cannot download {server.url}{PATH}: timed out; " in refused()


def test_an_error_that_the_caller_is_handling_is_not_the_reason(server: Loopback) -> None:
    server.answers[PATH] = Answer(status=302, headers={"Location": PATH})
    try:
        raise FileNotFoundError(2, "Unrelated")
    except FileNotFoundError:
        assert "Unrelated" not in refused()


def test_a_full_disk(server: Loopback, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    really = Path.open

    def full(path: Path, *arguments: Any, **named: Any) -> IO[Any]:
        return really(Path("/dev/full") if path.suffix == ".part" else path, *arguments, **named)

    monkeypatch.setattr(Path, "open", full)
    assert f"cannot download {server.url}{PATH}: No space left on device; " in refused()
    assert cached(FILE) is None


def test_a_cache_that_cannot_be_made(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path / "file"))
    assert ": Not a directory; download the file yourself" in refused()


@pytest.mark.parametrize("mirror", ["nonsense", "file:///weights", "http://[", "http://127.0.0.1:99999"])
def test_a_mirror_that_is_no_address(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERRULE_BIT_MIRROR", mirror)
    assert f"cannot download {mirror}" in refused()


def test_the_proxy_is_asked(server: Loopback, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("HYPERRULE_BIT_MIRROR", "http://mirror.test/bit/")
    server.answers[f"http://mirror.test/bit/{FILE}"] = Answer(BODY)
    fetch(FILE, Heard())
    assert (cache / FILE).read_bytes() == BODY
    (cache / FILE).unlink()
    server.__exit__()
    assert ": the proxy, Connection refused; " in refused()


def test_the_hash_is_recorded_and_compared(server: Loopback, cache: Path) -> None:
    fetch(FILE, Heard())
    lock = cache / "weights.lock.json"
    ours, theirs = (hashlib.sha256(body).hexdigest() for body in (BODY, CHANGED))
    assert json.loads(lock.read_text()) == {FILE: {"sha256": ours, "bytes": len(BODY), "url": f"{server.url}{PATH}"}}
    (cache / FILE).write_bytes(CHANGED)
    line = refused()
    for word in (str(cache / FILE), ours[:12], theirs[:12], "Delete the file", f"its line in {lock}"):
        assert word in line
    (cache / FILE).unlink()
    assert fetch(FILE, Heard()).sha256 == ours
    server.answers[PATH] = Answer(CHANGED)
    (cache / FILE).unlink()
    assert "when it was first used" in refused()


def test_a_line_of_the_record_can_be_deleted(cache: Path) -> None:
    for name in ("a.npz", "b.npz"):
        cache.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(BODY)
        verified(name)
    lock = cache / "weights.lock.json"
    lock.write_text("".join(line for line in lock.read_text().splitlines(True) if "b.npz" not in line))
    (cache / "b.npz").write_bytes(CHANGED)
    assert verified("b.npz").sha256 == hashlib.sha256(CHANGED).hexdigest()
    assert list(json.loads(lock.read_text())) == ["a.npz", "b.npz"]
    lock.write_text("}")
    with pytest.raises(BackboneError, match=r"weights\.lock\.json cannot be read"):
        verified("a.npz")


def test_a_file_put_there_by_hand(cache: Path) -> None:
    (cache / FILE).parent.mkdir(parents=True)
    (cache / FILE).write_bytes(BODY[:-1000])
    assert f"{cache / FILE} is not a complete .npz file" in refused()
    (cache / FILE).write_bytes(BODY)
    sha256 = fetch(FILE, Heard()).sha256
    record = {"sha256": sha256, "bytes": len(BODY), "url": None}
    assert json.loads((cache / "weights.lock.json").read_text()) == {FILE: record}


def test_the_cache_can_be_moved(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fetch(FILE, Heard())
    shutil.move(cache_folder(), tmp_path / "elsewhere")
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path / "elsewhere"))
    server.__exit__()
    after = fetch(FILE, Heard())
    assert after == Weights(tmp_path / "elsewhere" / "weights" / FILE, before.sha256)


def test_two_at_once_download_once(server: Loopback, cache: Path) -> None:
    reporters = [Heard(), Heard()]
    with file_lock(cache / ".download"):
        threads = [threading.Thread(target=fetch, args=(FILE, reporter)) for reporter in reporters]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert (cache / FILE).read_bytes() == BODY


def test_the_default_is_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPERRULE_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder().is_relative_to(tmp_path)
    assert cache_folder().name == "hyperrule"
