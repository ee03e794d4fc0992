"""Find data sets that TFDS has prepared, or prepare them.

Prepared data sets are found by their folders, NAME/CONFIG/VERSION in the data directory, whether TFDS knows the name or
not; the default is the highest version. Only data sets without a folder are looked up in TFDS' code, and downloaded.
"""

import contextlib
import io
import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperrule.data.listing import DataRequest
from hyperrule.data.sources.named_splits import reason
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter, silent_native_stderr
from hyperrule.support.wording import did_you_mean, listed

PREFIX = "tfds:"
NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[^/:]+))?(:(?P<version>[\w.*]+))?")
FEATURES_FILE = "features.json"
RETRIES = 3  # TFDS' own 10 take minutes without a network


def prepared_builder(request: DataRequest, reporter: Reporter, fetch: bool) -> Any:
    """Return the ReadOnlyBuilder of prepared TFRecord files. Raises DataError."""
    typed = request.dataset.removeprefix(PREFIX)
    folder = Path(os.path.expanduser(typed))
    if not (folder / FEATURES_FILE).is_file():
        folder = _prepared(typed, request, reporter, fetch)
    tfds = tensorflow_datasets()
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # of any kind: features can be of user-defined classes
        raise DataError(f"{folder} does not hold a data set that TFDS can read: {reason(error)}") from error
    if (builder.info.file_format or tfds.core.FileFormat.TFRECORD) is not tfds.core.FileFormat.TFRECORD:
        raise DataError(
            f"{folder} is stored as {builder.info.file_format.value}, which cannot be read image by image. Convert "
            f"it: tfds convert_format --dataset_version_dir={folder} --out_file_format=tfrecord --out_dir=..."
        )
    return builder


def _prepared(typed: str, request: DataRequest, reporter: Reporter, fetch: bool) -> Path:
    """Return the folder of the data set; prepare it first if necessary."""
    if (parts := NAME.fullmatch(typed)) is None:
        raise DataError(
            f"{PREFIX}{typed} is not a TFDS name. Write {PREFIX}NAME, {PREFIX}NAME/CONFIG:1.2.3, or {PREFIX} and "
            f"the folder of a prepared data set, which contains {FEATURES_FILE}."
        )
    name, config, version = parts["name"], parts["config"], parts["version"]
    tfds = tensorflow_datasets()
    default = os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    data_dir = Path(os.path.expanduser(request.data_dir or default))
    if request.data_dir and not data_dir.is_dir():
        raise DataError(f"data directory {data_dir} does not exist. Create it to download data sets there.")
    there = _versions(data_dir / name)
    config = config or _default_config(tfds, data_dir / name, there)
    fitting = [found for found in there if found.config == config and _fits(tfds, found.version, version)]
    if fitting:
        return max(fitting, key=lambda found: tfds.core.Version(found.version)).folder
    builder = _from_code(tfds, name, config, version, data_dir, there)
    if not fetch:
        raise DataError(
            f"{PREFIX}{builder.info.full_name} is not prepared in {data_dir}.{_by_hand(builder)} 'hyperrule finetune' "
            f"will download {_size(builder)} and prepare it there; to prepare it now: {_build_command(builder)}"
        )
    _fetch(tfds, builder, reporter)
    return Path(builder.data_dir)


@dataclass(frozen=True)
class Version:
    """A prepared data set; `config` is empty if it has none."""

    config: str
    version: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.config}:{self.version}" if self.config else self.version


def _versions(root: Path) -> list[Version]:
    folders = sorted(file.parent for depth in ("*", "*/*") for file in root.glob(f"{depth}/{FEATURES_FILE}"))
    return [
        Version("" if folder.parent == root else folder.parent.name, folder.name, folder)
        for folder in folders
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)
    ]


def _default_config(tfds: Any, root: Path, there: Sequence[Version]) -> str:
    """Return the config to use if none is named: the default that TFDS recorded, or the only one."""
    recorded: str | None = tfds.core.dataset_builder.load_default_config_name(tfds.core.Path(root))
    configs = sorted({found.config for found in there}) or [""]
    if recorded is None and len(configs) > 1:
        raise DataError(f"{root} has several configs: {listed(configs)}. Choose one: {PREFIX}{root.name}/{configs[-1]}")
    return recorded or configs[0]


def _fits(tfds: Any, version: str, wanted: str | None) -> bool:
    try:
        return wanted is None or bool(tfds.core.Version(version).match(wanted))
    except ValueError:
        return False


def _from_code(tfds: Any, name: str, config: str, version: str | None, data_dir: Path, there: Sequence[Version]) -> Any:
    """Return the builder from TFDS' code. Raises DataError if there is no such data set, config or version."""
    also = f" Prepared in {data_dir / name}: {listed(map(str, there))}." if there else ""
    try:
        cls = tfds.builder_cls(name)
        configs = list(cls.builder_configs)
        if config and config not in configs:
            offers = f"TFDS offers {listed(configs)}." if configs else "TFDS offers it without configs."
            raise DataError(f"{PREFIX}{name} has no config {config!r}. {offers}{also}{did_you_mean(config, configs)}")
        latest = cls(data_dir=data_dir, config=config or None)
        if any(_fits(tfds, str(offered), version) for offered in latest.versions):
            return cls(data_dir=data_dir, config=config or None, version=version)
        offers = f"TFDS offers {listed(map(str, latest.versions))}."
    except tfds.core.DatasetNotFoundError:
        if not there:
            known = [*tfds.list_builders(with_community_datasets=False), *_folders(data_dir)]
            raise DataError(
                f"TFDS knows no data set {name!r}, and none of that name is prepared in {data_dir}."
                f"{did_you_mean(name, known)}"
            ) from None
        offers = "TFDS has no code to prepare others."
    except ImportError as error:
        raise DataError(f"TFDS cannot prepare {PREFIX}{name}: {reason(error)} Install the missing package.") from error
    wanted = " and ".join(f"{what} {value}" for what, value in (("config", config), ("version", version)) if value)
    raise DataError(f"{PREFIX}{name} has no {wanted}. {offers}{also}")


def _fetch(tfds: Any, builder: Any, reporter: Reporter) -> None:
    """Download and prepare the data set. TFDS works in a temporary folder and renames it when complete."""
    reporter.say(f"downloading {_size(builder)} and preparing {builder.info.full_name} in {builder.data_dir}")
    if not reporter.console.is_terminal or reporter.console.quiet:
        tfds.disable_progress_bar()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would print every retry
    try:
        with silent_native_stderr():
            import tensorflow  # noqa: F401
            from tensorflow_datasets.core.download import downloader
        downloader.MAX_RETRIES = RETRIES
        with contextlib.redirect_stdout(io.StringIO()):  # it would repeat the line above
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="tfrecord"
            )
    except Exception as error:  # of any kind: several hundred data sets have their own code
        raise DataError(
            f"{PREFIX}{builder.info.full_name} could not be prepared: {reason(error)}{_by_hand(builder)} Without a "
            f"network, prepare it elsewhere ({_build_command(builder)}), copy the folder, and give --data-dir."
        ) from error


def _size(builder: Any) -> str:
    """Describe the download's size, and that of the prepared data if known. Checksums cover all configs."""
    size = type(builder.info.download_size)
    listed_files = sum(info.size for info in (builder.url_infos or {}).values())
    download = builder.info.download_size or size(listed_files)
    prepared = f" (prepared: {builder.info.dataset_size})" if builder.info.dataset_size else ""
    return f"{download if download else 'an unknown size'}{prepared}"


def _by_hand(builder: Any) -> str:
    """Describe what the user must download by hand, as a sentence; empty if nothing."""
    instructions = " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split()).rstrip(".")
    where = f"{builder.data_dir_root}/downloads/manual"
    return f" It needs files that you download to {where}: {instructions}." if instructions else ""


def _build_command(builder: Any) -> str:
    config = f"/{builder.builder_config.name}" if builder.builder_config else ""
    return f"tfds build {builder.name}{config} --data_dir={shlex.quote(str(builder.data_dir_root))}"


def _folders(root: Path) -> list[str]:
    return [child.name for child in root.iterdir() if child.is_dir()] if root.is_dir() else []


def tensorflow_datasets() -> Any:
    import tensorflow_datasets as tfds

    # Skip the community's data sets and prepared ones in the cloud: both need a network or much time.
    tfds.core.visibility.set_availables([tfds.core.visibility.DatasetType.TFDS_PUBLIC])
    tfds.core.utils.gcs_utils._is_gcs_disabled = True
    return tfds
