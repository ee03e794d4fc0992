"""TF2 Hub modules from a server on the loopback interface: complete in their folder, or refused in one line."""

import io
import os
import socket
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from loopback import Answer, Heard, Loopback

from hyperrule.backbones.fetch import http
from hyperrule.backbones.fetch.hub import as_handle, cached, module_folder, resolve, unpack
from hyperrule.errors import BackboneError

WEIGHTS = "variables/variables.data-00000-of-00001"


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a SavedModel with one weight."""
    folder = tmp_path_factory.mktemp("module")
    holder = tf.Module()
    holder.weight = tf.Variable(2.0)
    tf.saved_model.save(holder, str(folder))
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def packed(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for folder in sorted({parent for name in files for parent in map(str, Path(name).parents)} - {".", ".."}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFHUB_CACHE_DIR", "")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as server:
        yield server


def refused(handle: str, cache: Path) -> str:
    """The one line that a request ends in; nothing remains that could be taken for the module."""
    with pytest.raises(BackboneError) as error:
        resolve(handle, Heard())
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert f"unpack {handle}?tf-hub-format=compressed to {module_folder(handle)}, or give the unpacked folder" in line
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert cached(handle) is None
    return line


def weight(folder: Path) -> float:
    return float(tf.saved_model.load(str(folder)).weight)


def test_fetches_once_and_says_what_before(server: Loopback, cache: Path, module: dict[str, bytes]) -> None:
    handle = f"{server.url}/google/bit/m-r50x1/1"
    server.answers["/google/bit/m-r50x1/1"] = Answer(packed(module))
    heard = Heard()
    folder = resolve(handle, heard)
    assert folder == module_folder(handle) == cached(handle)
    assert folder.is_relative_to(cache / "hub")
    assert heard.lines == [f"Downloading {handle} (0.0 MiB) to {folder}."]
    assert all(path.endswith("?tf-hub-format=compressed") for path, _ in server.asked)
    server.__exit__()
    assert weight(resolve(handle, heard)) == 2.0
    assert len(heard.lines) == 1


def test_follows_a_redirect(server: Loopback, module: dict[str, bytes]) -> None:
    server.answers["/module/1"] = Answer(status=302, headers={"Location": "/elsewhere.tar.gz"})
    server.answers["/elsewhere.tar.gz"] = Answer(packed(module), length=False)
    heard = Heard()
    assert weight(resolve(f"{server.url}/module/1", heard)) == 2.0
    assert "(size unknown)" in heard.lines[0]


def test_the_cache_folder_of_tensorflow_hub_counts(
    server: Loopback, tmp_path: Path, module: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("TFHUB_DOWNLOAD_PROGRESS", "1")
    server.answers["/module/1"] = Answer(packed(module))
    assert resolve(f"{server.url}/module/1", Heard()).parent == tmp_path / "own"


def test_nothing_is_printed(
    server: Loopback, module: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TFHUB_DOWNLOAD_PROGRESS", "1")
    server.answers["/module/1"] = Answer(packed(module))
    resolve(f"{server.url}/module/1", Heard())
    assert capfd.readouterr().out == ""


def test_nothing_of_this_process_is_changed_meanwhile(
    server: Loopback, module: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads may look at the environment, open sockets and print."""
    from tensorflow_hub import file_utils

    def state() -> tuple[object, ...]:
        return os.environ["TFHUB_CACHE_DIR"], socket.getdefaulttimeout(), sys.stdout

    seen = []
    extract = file_utils.extract_tarfile_to_destination
    monkeypatch.setattr(
        file_utils, "extract_tarfile_to_destination", lambda *args, **more: seen.append(state()) or extract(*args)
    )
    before = state()
    server.answers["/module/1"] = Answer(packed(module))
    assert weight(resolve(f"{server.url}/module/1", Heard())) == 2.0
    assert seen == [before]


def test_a_module_unpacked_by_hand_is_taken(cache: Path, module: dict[str, bytes]) -> None:
    handle = "https://tfhub.dev/google/bit/m-r50x1/1"
    write(module, module_folder(handle))
    assert resolve(handle, Heard()) == module_folder(handle)
    (module_folder(handle) / WEIGHTS).unlink()
    with pytest.raises(BackboneError, match="holds no complete SavedModel; delete it, or unpack"):
        resolve(handle, Heard())


def write(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=404), "the server answered 404 Not Found"),
        (Answer(status=302, headers={"Location": "/module/1"}), "Exceeded 30 redirects"),
        (Answer(b"<html>Please log in</html>"), "does not appear to be a valid module"),
        (Answer(), "does not appear to be a valid module"),
        (Answer(packed({"readme": b"nothing else"})), "what the server sent is not a complete SavedModel"),
        (Answer(packed({"../escaped": b"x"})), "'../escaped' is invalid"),
    ],
)
def test_what_is_no_module_is_one_line(server: Loopback, cache: Path, answer: Answer, reason: str) -> None:
    server.answers["/module/1"] = answer
    handle = f"{server.url}/module/1"
    line = refused(handle, cache)
    assert line.startswith(f"cannot download module {handle}: ")
    assert reason in line


@pytest.mark.parametrize("told", [True, False], ids=["length right", "length wrong"])
@pytest.mark.parametrize("mode", ["w:gz", "w:"])
def test_an_archive_cut_anywhere_is_refused_and_then_fetched_anew(
    server: Loopback, cache: Path, module: dict[str, bytes], mode: str, told: bool
) -> None:
    archive = packed(module, mode)
    handle = f"{server.url}/module/1"
    content = len(archive.rstrip(b"\0")) // 512 * 512  # a plain archive ends in blocks of zeros
    for share in (0.01, 0.3, 0.5, 0.7, 0.9):
        cut = int(content * share)
        server.answers["/module/1"] = Answer(archive[:cut]) if told else Answer(archive, cut=cut)
        refused(handle, cache)
    server.answers["/module/1"] = Answer(archive)
    assert weight(resolve(handle, Heard())) == 2.0


def test_an_archive_cut_between_two_files_is_refused(server: Loopback, cache: Path, module: dict[str, bytes]) -> None:
    for left_out in ("saved_model.pb", "variables/variables.index", WEIGHTS):
        server.answers["/module/1"] = Answer(packed({name: module[name] for name in module if name != left_out}))
        assert "not a complete SavedModel" in refused(f"{server.url}/module/1", cache)


def test_nobody_listens(server: Loopback, cache: Path) -> None:
    server.__exit__()
    assert ": Connection refused; download it yourself: " in refused(f"{server.url}/module/1", cache)


@pytest.mark.parametrize("said", [0, 100])
def test_a_server_that_says_nothing(
    server: Loopback, cache: Path, module: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.1)
    server.answers["/module/1"] = Answer(packed(module), hang=not said, stall=said)
    assert ": timed out; " in refused(f"{server.url}/module/1", cache)


def test_a_folder_that_cannot_be_made(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "file" / "hub"))
    server.answers["/module/1"] = Answer()
    line = refused(f"{server.url}/module/1", tmp_path / "cache")
    assert f": {tmp_path / 'file'}" in line


def test_setuptools_that_tensorflow_hub_cannot_be_imported_with(
    server: Loopback, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow_hub", raising=False)
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    server.answers["/module/1"] = Answer()
    with pytest.raises(BackboneError, match=r"tensorflow_hub cannot be imported .*pip install .* 'setuptools<82'"):
        resolve(f"{server.url}/module/1", Heard())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "handle"),
    [
        ("https://tfhub.dev/google/bit/m-r50x1/1", "https://tfhub.dev/google/bit/m-r50x1/1"),
        ("tfhub.dev/google/bit/m-r50x1/1/", "https://tfhub.dev/google/bit/m-r50x1/1"),
        ("http://localhost:8080/module", "http://localhost:8080/module"),
        (
            "www.kaggle.com/models/google/bit/TensorFlow2/m-r50x1/1",
            "https://www.kaggle.com/models/google/bit/TensorFlow2/m-r50x1/1",
        ),
        (
            "google/bit/tensorFlow2/m-r50x1-ilsvrc2012-classification/1",
            "https://www.kaggle.com/models/google/bit/TensorFlow2/m-r50x1-ilsvrc2012-classification/1",
        ),
        (
            "google/bit/m-r50x1/ilsvrc2012_classification/1",
            "https://tfhub.dev/google/bit/m-r50x1/ilsvrc2012_classification/1",
        ),
        (
            "sayakpaul/bit_r152x2_224_feature_extraction/1",
            "https://tfhub.dev/sayakpaul/bit_r152x2_224_feature_extraction/1",
        ),
        ("bit-m-r50x1", None),
        ("runs/photos/1", None),
        ("/home/me/google/bit/m-r50x1/1", None),
        ("google/bit", None),
        ("", None),
    ],
)
def test_handles(text: str, handle: str | None) -> None:
    assert as_handle(text) == handle


@pytest.mark.parametrize("mode", ["w:gz", "w:"])
@pytest.mark.parametrize("below", ["", "module/"])
def test_unpacks_a_local_archive_once(
    tmp_path: Path, cache: Path, module: dict[str, bytes], mode: str, below: str
) -> None:
    archive = tmp_path / "module.tar"
    archive.write_bytes(packed({below + name: content for name, content in module.items()}, mode))
    heard = Heard()
    folder = unpack(archive, heard)
    assert folder.is_relative_to(cache / "unpacked")
    assert weight(folder) == 2.0
    assert unpack(archive, heard) == folder
    assert len(heard.lines) == 1
    (folder / WEIGHTS).unlink()
    assert unpack(archive, heard) == folder
    assert weight(folder) == 2.0


def test_damaged_local_archives_leave_nothing(tmp_path: Path, cache: Path, module: dict[str, bytes]) -> None:
    whole = packed(module)
    cases = {
        "half": whole[: len(whole) // 2],
        "page": b"<html></html>",
        "empty": b"",
        "other": packed({"readme": b""}),
        "outside": packed({**module, "../../escaped": b"x"}),
    }
    for name, content in cases.items():
        archive = tmp_path / f"{name}.tar.gz"
        archive.write_bytes(content)
        with pytest.raises(BackboneError, match=f"cannot unpack .*{name}") as error:
            unpack(archive, Heard())
        assert len(str(error.value).splitlines()) == 1
        assert os.listdir(cache / "unpacked") == [".lock"]
    assert not list(tmp_path.rglob("escaped"))
    with pytest.raises(BackboneError, match="No such file"):
        unpack(tmp_path / "none.tar.gz", Heard())
