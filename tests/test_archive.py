"""Packed data sets: unpacked once and completely, or refused in one line with nothing left behind."""

import errno
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from hyperrule.data.sources.archive import is_archive, unpacked
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter

FILES = {"train/cat/1.jpg": b"one", "train/dog/2.jpg": b"two" * 9000, "test/cat/ä <b>.jpg": b"three"}
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def packed(folder: Path, files: dict[str, bytes], suffix: str = ".zip") -> Path:
    archive = folder / f"photos{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in files.items():
                zipped.writestr(name, content)
        return archive
    mode = {".tgz": "gz", ".tar": ""}.get(suffix, suffix.removeprefix(".tar."))
    with tarfile.open(archive, f"w:{mode}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive


def unpack(archive: Path) -> Path:
    return unpacked(archive, Reporter(quiet=True))


def refused(archive: Path, cache: Path) -> str:
    with pytest.raises(DataError) as caught:
        unpack(archive)
    assert len(str(caught.value).splitlines()) == 1
    assert not [path for path in cache.glob("data/*") if path.name != ".lock"]
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_is_unpacked(tmp_path: Path, suffix: str) -> None:
    assert contents(unpack(packed(tmp_path, FILES, suffix))) == FILES


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_only_folder_is_the_data_set_whatever_is_hidden_beside(tmp_path: Path, suffix: str) -> None:
    hidden = {
        "__MACOSX/photos/._a.jpg": b"x",
        ".DS_Store": b"x",
        "photos/.hidden/b.jpg": b"x",
        "photos/cat/._c.jpg": b"x",
    }
    folder = unpack(packed(tmp_path, {f"./photos/{name}": content for name, content in FILES.items()} | hidden, suffix))
    assert folder.name == "photos"
    assert contents(folder) == FILES


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_it_is_unpacked_once_and_told(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    archive = packed(tmp_path, FILES, suffix)
    folder = unpacked(archive, Reporter())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert unpacked(archive.rename(tmp_path / f"other{suffix}"), Reporter()) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert folder.is_relative_to(cache / "data")
    said = capsys.readouterr().err
    assert said.count(f"Unpacking {archive}") == 1
    assert "MiB" in said


def test_names_with_backslashes_are_paths(tmp_path: Path) -> None:
    files = {name.replace("/", "\\"): content for name, content in FILES.items()}
    assert contents(unpack(packed(tmp_path, files))) == FILES


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("name", ["../out.jpg", "cat/../../out.jpg", "/tmp/hyperrule-out.jpg"])
def test_names_that_lead_out_are_refused(tmp_path: Path, cache: Path, suffix: str, name: str) -> None:
    assert "is refused" in refused(packed(tmp_path, {**FILES, name: b"x"}, suffix), cache)
    assert not list(tmp_path.rglob("out.jpg"))
    assert not Path("/tmp/hyperrule-out.jpg").exists()


@pytest.mark.parametrize("name", ["..\\out.jpg", "\\out.jpg"])
def test_backslashes_do_not_lead_out_either(tmp_path: Path, cache: Path, name: str) -> None:
    assert "is refused" in refused(packed(tmp_path, {**FILES, name: b"x"}), cache)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["../../out", "/etc/passwd"])
def test_links_that_lead_out_of_a_tar_are_refused(tmp_path: Path, cache: Path, kind: bytes, target: str) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        member = tarfile.TarInfo("cat/link.jpg")
        member.type, member.linkname = kind, target
        tar.addfile(member)
    assert "is refused" in refused(tmp_path / "photos.tar", cache)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_devices_of_a_tar_are_refused(tmp_path: Path, cache: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        member = tarfile.TarInfo("cat/device.jpg")
        member.type = kind
        tar.addfile(member)
    assert "is refused" in refused(tmp_path / "photos.tar", cache)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR])
def test_links_and_devices_of_a_zip_are_refused(tmp_path: Path, cache: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as zipped:
        member = zipfile.ZipInfo("cat/link.jpg")
        member.external_attr = (kind | 0o777) << 16
        zipped.writestr(member, "dog.jpg")
    assert "link or device" in refused(tmp_path / "photos.zip", cache)


def test_an_encrypted_zip_is_refused(tmp_path: Path, cache: Path) -> None:
    archive = packed(tmp_path, {"cat/1.jpg": b"x"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of the member in the archive's directory
    archive.write_bytes(content)
    assert "'cat/1.jpg' is encrypted" in refused(archive, cache)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_archive_is_refused(tmp_path: Path, cache: Path, suffix: str) -> None:
    assert "empty" in refused(packed(tmp_path, {".DS_Store": b"x"}, suffix), cache)
    assert "empty" in refused(packed(tmp_path, {}, suffix), cache)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("left", [0, 0.1, 0.5, 0.8])
def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, cache: Path, suffix: str, left: float) -> None:
    many = {f"cat/{number}.jpg": Random(number).randbytes(3000) for number in range(20)}
    archive = packed(tmp_path, many, suffix)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * left)])
    assert "damaged" in refused(archive, cache)


def test_a_tar_that_is_cut_between_two_files_is_refused(tmp_path: Path, cache: Path) -> None:
    archive = packed(tmp_path, {"a/1.jpg": b"x" * 512, "b/2.jpg": b"x" * 512}, ".tar")
    archive.write_bytes(archive.read_bytes()[:1024])
    assert "ends too early" in refused(archive, cache)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_file_by_that_name_is_refused(tmp_path: Path, cache: Path, suffix: str) -> None:
    (tmp_path / f"photos{suffix}").write_bytes(b"<html>404 Not Found</html>" * 99)
    assert "no such archive" in refused(tmp_path / f"photos{suffix}", cache)


def test_bytes_that_were_changed_are_noticed(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:
        zipped.writestr("cat/1.jpg", b"x" * 100)
    archive.write_bytes(archive.read_bytes().replace(b"xxx", b"xyx", 1))
    assert "damaged" in refused(archive, cache)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    archive = packed(tmp_path, FILES, suffix)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    module: Callable[..., object] = zipfile.shutil if suffix == ".zip" else tarfile  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "copyfileobj", full)
    assert "the disk is full" in refused(archive, cache)


@pytest.mark.parametrize("name", ["missing.zip", "folder.tar"])
def test_an_archive_that_cannot_be_opened(tmp_path: Path, cache: Path, name: str) -> None:
    (tmp_path / "folder.tar").mkdir()
    assert f"cannot unpack {tmp_path / name}" in refused(tmp_path / name, cache)


@pytest.mark.parametrize("name", [f"a.b{suffix}" for suffix in SUFFIXES] + ["PHOTOS.ZIP", "a.Tar.Gz"])
def test_archives_by_their_suffix(name: str) -> None:
    assert is_archive(Path(name))


@pytest.mark.parametrize("name", ["photos", "photos.npz", "photos.gz", "zip", "photos.zip.part"])
def test_no_archives(name: str) -> None:
    assert not is_archive(Path(name))
