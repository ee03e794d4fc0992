"""TensorFlow Datasets: "tfds:NAME/CONFIG:VERSION", prepared as TFRecord files and read without TensorFlow.

What is prepared is found by its folders, NAME/CONFIG/VERSION in the data directory, whether TFDS knows the name or
not; without a version the highest is meant. Only what is not there is looked up in TFDS' own code, and fetched.
"""

import contextlib
import io
import logging
import os
import re
import shlex
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from hyperrule.data.contents import FileParts, Indices
from hyperrule.data.dataset_info import Split
from hyperrule.data.known import destroys_label
from hyperrule.data.listing import SPLIT_NAMES, DataRequest, Listing, split_by_name
from hyperrule.data.sources.shards import Classes, classes_of
from hyperrule.data.tfexample import Record, records
from hyperrule.errors import DataError
from hyperrule.files import os_errors_as
from hyperrule.progress import Reporter
from hyperrule.silence import silent_native_stderr
from hyperrule.wording import did_you_mean, listed

PREFIX = "tfds:"
NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[^/:]+))?(:(?P<version>[\w.*]+))?")
FEATURES_FILE = "features.json"
RETRIES = 3  # TFDS has 10, which take minutes where there is no network
ID_FEATURES = ("id", "file_name", "filename", "image/filename", "image_id")
OWN_ORDER = "the data set's own"


def list_tfds(request: DataRequest, reporter: Reporter, fetch: bool = True) -> Listing:
    """Images "train/00123" by position in the split, or by the data set's own names where these are unique.

    With `fetch`, what is not prepared is downloaded and prepared. Raises DataError for what does not exist or cannot
    be had, for a data set without images or labels of whole images, and for splits that share images.
    """
    with os_errors_as(DataError, f"cannot read {request.dataset}"):
        builder = _builder(request, reporter, fetch)
    data_set = PREFIX + builder.info.full_name
    image_key, label_key = _keys(builder, request, data_set)
    chosen = chosen_splits(request, _sizes(builder), _absolute(builder), data_set)
    rows = _read(builder, chosen.images, image_key, label_key, reporter)
    classes = _classes(_features(builder)[label_key], rows.values)
    listing = Listing(
        kind="TFDS",
        location=Path(builder.data_dir).resolve(),
        class_names=classes.names,
        ids=rows.ids,
        labels=classes.labels,
        contents=rows.contents,
        splits=chosen.splits,
        origins=chosen.origins,
        class_order=classes.order,
        notes=chosen.notes,
        cost=rows.cost,
        destroys_label=destroys_label(builder.info.full_name, label_key),
    )
    return without_unlabelled(listing, request, data_set)


# --- What is prepared, and what could be -----------------------------------------------------------------------------


def _builder(request: DataRequest, reporter: Reporter, fetch: bool) -> Any:
    """The ReadOnlyBuilder of prepared TFRecord files."""
    typed = request.dataset.removeprefix(PREFIX)
    folder = Path(os.path.expanduser(typed))
    if not (folder / FEATURES_FILE).is_file():
        folder = _prepared(typed, request, reporter, fetch)
    tfds = _tfds()
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # of any kind: features can be of classes of the user's own
        raise DataError(f"{folder} does not hold a data set that TFDS can read: {reason(error)}") from error
    if (builder.info.file_format or tfds.core.FileFormat.TFRECORD) is not tfds.core.FileFormat.TFRECORD:
        raise DataError(
            f"{folder} is stored as {builder.info.file_format.value}, of which single images cannot be read. Convert "
            f"it: tfds convert_format --dataset_version_dir={folder} --out_file_format=tfrecord --out_dir=..."
        )
    return builder


def _prepared(typed: str, request: DataRequest, reporter: Reporter, fetch: bool) -> Path:
    """The folder of the data set, prepared now if need be."""
    if (parts := NAME.fullmatch(typed)) is None:
        raise DataError(
            f"{PREFIX}{typed} is not a name of TFDS. Write {PREFIX}NAME, {PREFIX}NAME/CONFIG:1.2.3, or {PREFIX} and "
            f"the folder of a prepared data set, which holds {FEATURES_FILE}."
        )
    name, config, version = parts["name"], parts["config"], parts["version"]
    tfds = _tfds()
    default = os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    data_dir = Path(os.path.expanduser(request.data_dir or default))
    if request.data_dir and not data_dir.is_dir():
        raise DataError(f"data directory {data_dir} does not exist. Make it, if data sets are to be downloaded there.")
    there = _versions(data_dir / name)
    config = config or _default_config(tfds, data_dir / name, there)
    fitting = [found for found in there if found.config == config and _fits(tfds, found.version, version)]
    if fitting:
        return max(fitting, key=lambda found: tfds.core.Version(found.version)).folder
    builder = _from_code(tfds, name, config, version, data_dir, there)
    if not fetch:
        raise DataError(
            f"{PREFIX}{builder.info.full_name} is not prepared in {data_dir}.{_by_hand(builder)} 'hyperrule finetune' "
            f"will download {_size(builder)} and prepare it there; to have it now: {_build_command(builder)}"
        )
    _fetch(tfds, builder, reporter)
    return Path(builder.data_dir)


@dataclass(frozen=True)
class Version:
    """A prepared data set; `config` is empty where it has none."""

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
    """The config that is meant if none is named: what TFDS noted as the default, or the only one."""
    noted: str | None = tfds.core.dataset_builder.load_default_config_name(tfds.core.Path(root))
    configs = sorted({found.config for found in there}) or [""]
    if noted is None and len(configs) > 1:
        raise DataError(f"{root} has several configs: {listed(configs)}. Say which: {PREFIX}{root.name}/{configs[-1]}")
    return noted or configs[0]


def _fits(tfds: Any, version: str, wanted: str | None) -> bool:
    try:
        return wanted is None or bool(tfds.core.Version(version).match(wanted))
    except ValueError:
        return False


def _from_code(tfds: Any, name: str, config: str, version: str | None, data_dir: Path, there: Sequence[Version]) -> Any:
    """The builder that TFDS has code for."""
    also = f" Prepared in {data_dir / name}: {listed(map(str, there))}." if there else ""
    try:
        cls = tfds.builder_cls(name)
        configs = list(cls.builder_configs)
        if config and config not in configs:
            offers = f"TFDS makes {listed(configs)}." if configs else "TFDS makes it without configs."
            raise DataError(f"{PREFIX}{name} has no config {config!r}. {offers}{also}{did_you_mean(config, configs)}")
        latest = cls(data_dir=data_dir, config=config or None)
        if any(_fits(tfds, str(offered), version) for offered in latest.versions):
            return cls(data_dir=data_dir, config=config or None, version=version)
        offers = f"TFDS makes {listed(map(str, latest.versions))}."
    except tfds.core.DatasetNotFoundError:
        if not there:
            known = [*tfds.list_builders(with_community_datasets=False), *_folders(data_dir)]
            raise DataError(
                f"TFDS knows no data set {name!r}, and nothing of that name is prepared in {data_dir}."
                f"{did_you_mean(name, known)}"
            ) from None
        offers = "TFDS has no code to make others."
    except ImportError as error:
        raise DataError(f"TFDS cannot make {PREFIX}{name}: {reason(error)} Install what is missing.") from error
    wanted = " and ".join(f"{what} {value}" for what, value in (("config", config), ("version", version)) if value)
    raise DataError(f"{PREFIX}{name} has no {wanted}. {offers}{also}")


def _fetch(tfds: Any, builder: Any, reporter: Reporter) -> None:
    """Downloads and prepares; TFDS does so in a folder of another name, and renames it when it is whole."""
    reporter.say(f"downloading {_size(builder)} and preparing {builder.info.full_name} in {builder.data_dir}")
    if not reporter.console.is_terminal or reporter.console.quiet:
        tfds.disable_progress_bar()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it tells of every retry
    try:
        with silent_native_stderr():
            import tensorflow  # noqa: F401
            from tensorflow_datasets.core.download import downloader
        downloader.MAX_RETRIES = RETRIES
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what the line above says
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="tfrecord"
            )
    except Exception as error:  # of any kind: it is the code of several hundred data sets
        raise DataError(
            f"{PREFIX}{builder.info.full_name} could not be prepared: {reason(error)}{_by_hand(builder)} Without a "
            f"network, prepare it elsewhere ({_build_command(builder)}), copy the folder, and give --data-dir."
        ) from error


def _size(builder: Any) -> str:
    """Of the download, and of the prepared data if TFDS knows it. The checksums of a data set hold all its configs."""
    size = type(builder.info.download_size)
    listed_files = sum(info.size for info in (builder.url_infos or {}).values())
    download = builder.info.download_size or size(listed_files)
    prepared = f" (prepared: {builder.info.dataset_size})" if builder.info.dataset_size else ""
    return f"{download if download else 'an unknown size'}{prepared}"


def _by_hand(builder: Any) -> str:
    """What the user has to download, if anything, as a sentence."""
    instructions = " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split()).rstrip(".")
    where = f"{builder.data_dir_root}/downloads/manual"
    return f" It needs files that you download to {where}: {instructions}." if instructions else ""


def _build_command(builder: Any) -> str:
    config = f"/{builder.builder_config.name}" if builder.builder_config else ""
    return f"tfds build {builder.name}{config} --data_dir={shlex.quote(str(builder.data_dir_root))}"


def _folders(root: Path) -> list[str]:
    return [child.name for child in root.iterdir() if child.is_dir()] if root.is_dir() else []


def reason(error: BaseException) -> str:
    """The first line that says something, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0][:300].rstrip('.') if lines else type(error).__name__}."


def _tfds() -> Any:
    import tensorflow_datasets as tfds

    # Neither the community's data sets nor the prepared ones in the cloud are looked up: it takes a network, or long.
    tfds.core.visibility.set_availables([tfds.core.visibility.DatasetType.TFDS_PUBLIC])
    tfds.core.utils.gcs_utils._is_gcs_disabled = True
    return tfds


# --- What a prepared data set holds ----------------------------------------------------------------------------------


def _features(builder: Any) -> dict[str, Any]:
    """By key, those of groups as "group/key". In order: the file has them as a map, in one that changes."""
    groups = _tfds().features.FeaturesDict

    def flat(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, feature in group.items():
            if isinstance(feature, groups):
                yield from flat(feature, f"{prefix}{key}/")
            else:
                yield f"{prefix}{key}", feature

    return dict(sorted(flat(builder.info.features, "")))


def _keys(builder: Any, request: DataRequest, data_set: str) -> tuple[str, str]:
    """Of the image and the label."""
    kinds = _tfds().features
    features = _features(builder)
    images, classes, others = [], [], []
    for key, feature in features.items():
        if isinstance(feature, kinds.Image) and not isinstance(feature, kinds.LabeledImage):
            images.append(key)
        elif isinstance(feature, kinds.ClassLabel):
            classes.append(key)
        elif feature.shape == () and (isinstance(feature, kinds.Text) or np.dtype(feature.np_dtype).kind in "iub"):
            others.append(key)
    supervised: tuple[Any, ...] = builder.info.supervised_keys or ()
    meant = supervised[1] if len(supervised) > 1 and isinstance(supervised[1], str) else ""
    classes.sort(key=lambda key: key != meant)
    image_key = chosen_key(request.image_key, ("image",), images, [], "image", data_set, list(features))
    label_key = chosen_key(
        request.label_key,
        ("label", *([meant] if not classes else [])),
        classes,
        others,
        "label",
        data_set,
        list(features),
    )
    if (dtype := np.dtype(features[image_key].np_dtype)) != np.uint8:
        raise DataError(
            f"feature {image_key!r} of {data_set} holds images of {dtype}; only those of uint8 can be read."
        )
    return image_key, label_key


def _sizes(builder: Any) -> dict[str, int]:
    return {name: split.num_examples for name, split in builder.info.splits.items()}


@dataclass(frozen=True)
class Shard:
    """Images of a split from `position` on; the first has number `first` among those of all splits."""

    file: Path
    split: str
    length: int
    first: int
    position: int


def _shards(builder: Any) -> Iterator[Shard]:
    first = 0
    for name, split in builder.info.splits.items():
        position = 0
        for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
            yield Shard(Path(file), name, length, first + position, position)
            position += length
        first += position


@dataclass(frozen=True)
class Rows:
    """Images with the values of their labels, as they are stored: numbers or texts."""

    ids: list[str]
    values: list[int | str]
    contents: FileParts
    cost: str


def _read(builder: Any, images: Indices, image_key: str, label_key: str, reporter: Reporter) -> Rows:
    """The images of those numbers. Shards have no index, so that they are read up to the last image wanted."""
    shards = list(_wanted(_shards(builder), images))
    if missing := [shard.file.name for shard, _ in shards if not shard.file.is_file()]:
        raise DataError(
            f"{builder.data_dir} is not whole: {len(missing)} of {len(shards)} files are missing: {listed(missing)}. "
            "Copy it again, or remove the folder to have it prepared again."
        )
    named = next((key for key in ID_FEATURES if _is_text(_features(builder).get(key))), "")
    names: list[str] = []
    values: list[int | str] = []
    offsets, lengths = array("q"), array("q")
    with reporter.stage("index", len(shards)) as report:
        for number, (shard, wanted) in enumerate(shards):
            for record in _records(shard, wanted):
                if named:
                    names.append(f"{shard.split}/{_value(record, named)}")
                values.append(_value(record, label_key))
                offset, length = record.place(image_key)
                offsets.append(offset)
                lengths.append(length)
            report(number + 1, "shards")
    gigabytes = sum(shard.file.stat().st_size for shard, _ in shards) / 1e9
    usable = len(set(names)) == len(values) and all(map(str.isprintable, names))
    return Rows(
        names if usable else _positions(builder, shards),
        values,
        FileParts(
            tuple(shard.file for shard, _ in shards),
            np.repeat(np.arange(len(shards), dtype=np.int32), [len(wanted) for _, wanted in shards]),
            np.array(offsets),
            np.array(lengths),
        ),
        f"{len(shards)} shards, {gigabytes:.3g} GB, were read to index {len(values):,} images",
    )


def _positions(builder: Any, shards: Iterable[tuple[Shard, Indices]]) -> list[str]:
    digits = {split: max(5, len(str(size - 1))) for split, size in _sizes(builder).items()}
    return [
        f"{shard.split}/{shard.position + place:0{digits[shard.split]}d}"
        for shard, wanted in shards
        for place in wanted
    ]


def _wanted(shards: Iterable[Shard], images: Indices) -> Iterator[tuple[Shard, Indices]]:
    """Shards with the places of the wanted images in them, ascending."""
    for shard in shards:
        start, end = np.searchsorted(images, [shard.first, shard.first + shard.length])
        if end > start:
            yield shard, images[start:end] - shard.first


def _records(shard: Shard, wanted: Indices) -> Iterator[Record]:
    left = iter(wanted.tolist())
    place = next(left)
    for record in records(shard.file):
        if record.number == place:
            yield record
            if (place := next(left, -1)) < 0:
                return
    raise DataError(f"{shard.file} has fewer images than {shard.length}; copy the data set again.")


def _is_text(feature: Any) -> bool:
    return isinstance(feature, _tfds().features.Text)


def _value(record: Record, key: str) -> int | str:
    """The one value of that key."""
    values = record.feature(key) or []
    if len(values) != 1 or isinstance(values[0], float):
        raise DataError(f"{record} has no single number or text {key!r}.")
    return values[0].decode("utf-8", "backslashreplace") if isinstance(values[0], bytes) else values[0]


def _classes(feature: Any, values: Sequence[int | str]) -> Classes:
    """TFDS writes the label -1 where there is none."""
    if isinstance(feature, _tfds().features.ClassLabel) and feature.num_classes:
        return Classes(tuple(feature.names), np.array(values, np.int32), OWN_ORDER)
    return classes_of([str(value) for value in values], None)


# --- What is common to data sets that are called by a name: keys, and splits by expression ---------------------------


def chosen_key(
    wanted: str | None,
    customary: Sequence[str],
    certain: Sequence[str],
    possible: Sequence[str],
    what: Literal["image", "label"],
    data_set: str,
    features: Sequence[str],
) -> str:
    """The key of the image or the label: the wanted one; a customary name; or the only one that is `certain`.

    Raises DataError, with the choice, if that does not decide, and if there is nothing to choose from.
    """
    choice = [*certain, *possible]
    if wanted is not None:
        if wanted not in choice:
            offers = f"It has: {listed(choice) or 'none'}.{did_you_mean(wanted, choice)}"
            raise DataError(f"{data_set} has no {what} {wanted!r}. {offers}")
        return wanted
    for key in customary:
        if key in choice:
            return key
    if len(certain) == 1:
        return certain[0]
    if certain:
        raise DataError(f"{data_set} has several {what}s: {listed(certain)}. Say which: --{what}-key {certain[0]}")
    others = f" Any number or text can be the label: --{what}-key {possible[0]}" if possible else ""
    of_whole = "label of whole images" if what == "label" else "image"
    raise DataError(f"{data_set} has no {of_whole}. It has: {listed(features)}.{others}")


class Span(Protocol):
    """Part of a split, as the read instructions of both TFDS and Hugging Face have it; None is an end of the split."""

    splitname: str
    from_: int | None
    to: int | None


@dataclass(frozen=True)
class Chosen:
    """`images` are the numbers, ascending, of the images in any split, where all splits of the data set are counted
    through; `splits` index `images`."""

    images: Indices
    splits: dict[Split, Indices]
    origins: dict[Split, str]
    notes: tuple[str, ...]


def chosen_splits(
    request: DataRequest, sizes: dict[str, int], absolute: Callable[[str], Iterable[Span]], data_set: str
) -> Chosen:
    """Splits by name or expression ("train[:98%]", "train+validation"), which `absolute` resolves.

    Splits that the request does not mention go by custom, unless it spends their images otherwise. Raises DataError
    for what cannot be resolved, is empty, or has images twice or in two splits.
    """
    firsts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))

    def numbers(expression: str) -> Indices:
        try:
            spans = list(absolute(expression))
        except Exception as error:
            raise DataError(
                f"{data_set} has no split {expression!r}: {reason(error)} It has: {listed(_counted(sizes))}. Parts "
                "and sums are written as 'train[:80%]', 'train[80%:]', 'train[:800]+validation[:200]'."
            ) from error
        parts = [np.arange(sizes[span.splitname])[span.from_ : span.to] + firsts[span.splitname] for span in spans]
        found = np.unique(np.concatenate([*parts, np.empty(0, np.int64)]))
        if not len(found) or len(found) < sum(map(len, parts)):
            wrong = "has some images twice" if len(found) else "is empty"
            raise DataError(f"split {expression!r} of {data_set} {wrong}. It has: {listed(_counted(sizes))}.")
        return found

    expressions = _expressions(request, sizes, data_set)
    members = {split: numbers(expression) for split, expression in expressions.items()}
    notes = []
    for split in [split for split in expressions if split != "train" and split not in request.splits]:
        spent = next((other for other in request.splits if _common(members[split], members[other])), None)
        if spent:
            notes.append(f"split {expressions[split]} is in use by {expressions[spent]} ({spent})")
            del members[split]
    for one, other in combinations(members, 2):
        if common := _common(members[one], members[other]):
            raise DataError(
                f"{expressions[one]} ({one}) and {expressions[other]} ({other}) of {data_set} have {common:,} "
                "images in common. Give expressions without overlap, such as --train-split 'train[:90%]' and "
                f"--{other}-split 'train[90%:]'."
            )
    images = np.unique(np.concatenate(list(members.values())))
    unused = [name for name in sizes if sizes[name] and not _common(np.arange(sizes[name]) + firsts[name], images)]
    if unused:
        notes.append(f"not used: {listed(_counted({name: sizes[name] for name in unused}))}")
    return Chosen(
        images,
        {split: np.searchsorted(images, found) for split, found in members.items()},
        {split: f"split {expressions[split]}" for split in members},
        tuple(notes),
    )


def without_unlabelled(listing: Listing, request: DataRequest, data_set: str) -> Listing:
    """Leaves out a test or validation split that has no labels (-1), as contests keep them, unless it was asked for.

    Raises DataError where labels are missing otherwise.
    """
    labelled = listing.labels >= 0
    bare = [split for split, members in listing.splits.items() if not labelled[members].any()]
    left_out = [split for split in bare if split != "train" and split not in request.splits]
    splits = {split: members for split, members in listing.splits.items() if split not in left_out}
    for split, members in splits.items():
        if missing := int((~labelled[members]).sum()):
            raise DataError(f"{missing:,} of {len(members):,} images of {split} in {data_set} have no label.")
    if not left_out:
        return listing
    kept = np.sort(np.concatenate(list(splits.values())))
    return replace(
        listing,
        ids=[listing.ids[i] for i in kept],
        labels=listing.labels[kept],
        contents=listing.contents.take(kept),
        splits={split: np.searchsorted(kept, members) for split, members in splits.items()},
        origins={split: listing.origins[split] for split in splits},
        notes=(*listing.notes, f"{' and '.join(left_out)} has no labels and is not used"),
    )


def _expressions(request: DataRequest, sizes: dict[str, int], data_set: str) -> dict[Split, str]:
    """What was asked for, completed by custom; the only split, whatever its name, is for training."""
    unclaimed = [name for name in sizes if sizes[name] and SPLIT_NAMES.get(name.lower()) not in request.splits]
    if "train" in request.splits:
        unclaimed.append("train")
    customary = split_by_name(unclaimed, replace(request, splits={}), data_set)
    if not customary and len(sizes) == 1:
        customary = {"train": next(iter(sizes))}
    expressions = customary | dict(request.splits)
    if "train" not in expressions:
        raise DataError(f"{data_set} has the splits {listed(_counted(sizes))}. Say what to train on: --train-split ...")
    return {split: expressions[split] for split in get_args(Split) if split in expressions}


def _counted(sizes: dict[str, int]) -> list[str]:
    return [f"{name} ({size:,})" for name, size in sizes.items()]


def _common(some: Indices, others: Indices) -> int:
    """How many numbers are in both."""
    return len(np.intersect1d(some, others, assume_unique=True))


def _absolute(builder: Any) -> Callable[[str], Iterable[Span]]:
    splits = builder.info.splits
    instruction = _tfds().core.ReadInstruction
    return lambda expression: instruction.from_spec(expression).to_absolute(splits)
