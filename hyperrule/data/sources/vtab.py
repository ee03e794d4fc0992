"""The tasks of VTAB-1k: "vtab:NAME" to report, "vtab:NAME@choose" to choose hyper-parameters, read from TFDS' data.

VTAB-1k: its 19 tasks as a table, and its score.

Source: google-research/task_adaptation (in short T): task_adaptation/data/*.py for labels and splits, their *_test.py
for the numbers of classes, scripts/run_all_tasks.sh for which features are asked for. Groups: paper, arXiv 1910.04867.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperrule.data.images import EncodedImages, Pixels
from hyperrule.data.label_safety import destroys_label
from hyperrule.data.listing import DataRequest, Listing, Split
from hyperrule.data.sources.named_splits import OWN_ORDER, resolved_splits, without_unlabelled
from hyperrule.data.sources.tfds import absolute, features_of, read_rows, sizes_of
from hyperrule.data.sources.tfds_builder import PREFIX as TFDS_PREFIX
from hyperrule.data.sources.tfds_builder import prepared_builder
from hyperrule.data.sources.vtab_labels import Binned, Counted, Features, Label, Nearest, Stored, ranges
from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import did_you_mean, listed

Group = Literal["natural", "specialized", "structured"]
Mean = TypeVar("Mean")


class Cut(NamedTuple):
    """The images of a TFDS split from `percent` of it on, rounded down to whole images."""

    split: str
    percent: int


TRAIN800 = 800  # the first of TFDS' train, in every task
VAL200 = 200


@dataclass(frozen=True)
class Task:
    """`tfds` has the version that T asks for; `val200` are the first 200 images of their cut, `test` are all of its.

    Pixels are multiplied by `scale`.
    """

    name: str
    group: Group
    tfds: str
    classes: int
    label: Label
    val200: Cut
    test: Cut
    scale: int = 1


OWN = Stored()
END_OF_TRAIN = Cut("train", 90)  # TRAIN_SPLIT_PERCENT of T's files
VALIDATION = Cut("validation", 0)
TEST = Cut("test", 0)

CLEVR = "clevr:3.*.*"
DSPRITES = "dsprites:2.*.*"
SMALLNORB = "smallnorb:2.*.*"
RETINOPATHY = "diabetic_retinopathy_detection/btgraham-300:3.*.*"
# T asks for Pets 3.*.*, of which TFDS repaired some files for 4.0.0, and for KITTI 3.1.0 and DMLab 2.0.0 exactly.
PETS = "oxford_iiit_pet"

CLEVR_COUNT = Counted("objects/size", fewest=3, most=10)  # _count_preprocess_fn
CLEVR_THRESHOLDS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)  # _closest_object_preprocess_fn; of no unit
CLEVR_DISTANCE = Nearest("objects/pixel_coords", CLEVR_THRESHOLDS, ranges(CLEVR_THRESHOLDS))
KITTI_DISTANCE = Nearest(  # _closest_vehicle_distance_pp: metres ahead of the camera; kinds are car, van, truck
    "objects/location",
    (-100.0, 8.0, 20.0, 999.0),
    ("up to 8 m", "8 to 20 m", "beyond 20 m", "no vehicle"),
    kind="objects/type",
    kinds=3,
    nothing=1000.0,
)
# num_classes=16 of scripts/run_all_tasks.sh; TFDS has 32 positions and 40 angles.
LOCATION = Binned("label_x_position", of=32, bins=16)
ORIENTATION = Binned("label_orientation", of=40, bins=16)

TASKS = {
    task.name: task
    for task in (
        Task("caltech101", "natural", "caltech101:3.*.*", 102, OWN, END_OF_TRAIN, TEST),  # one class is background
        Task("cifar100", "natural", "cifar100:3.*.*", 100, OWN, END_OF_TRAIN, TEST),
        Task("dtd", "natural", "dtd:3.*.*", 47, OWN, VALIDATION, TEST),
        Task("flowers102", "natural", "oxford_flowers102:2.*.*", 102, OWN, VALIDATION, TEST),
        Task("pets", "natural", PETS, 37, OWN, Cut("train", 80), TEST),
        Task("sun397", "natural", "sun397/tfds:4.*.*", 397, OWN, VALIDATION, TEST),
        Task("svhn", "natural", "svhn_cropped:3.*.*", 10, OWN, END_OF_TRAIN, TEST),
        Task("eurosat", "specialized", "eurosat/rgb:2.*.*", 10, OWN, Cut("train", 60), Cut("train", 80)),
        Task("patch-camelyon", "specialized", "patch_camelyon:2.*.*", 2, OWN, VALIDATION, TEST),
        Task("resisc45", "specialized", "resisc45:3.*.*", 45, OWN, Cut("train", 60), Cut("train", 80)),
        Task("retinopathy", "specialized", RETINOPATHY, 5, OWN, VALIDATION, TEST),
        Task("clevr-count", "structured", CLEVR, 8, CLEVR_COUNT, END_OF_TRAIN, VALIDATION),
        Task("clevr-distance", "structured", CLEVR, 6, CLEVR_DISTANCE, END_OF_TRAIN, VALIDATION),
        Task("dmlab", "structured", "dmlab:2.*.*", 6, OWN, VALIDATION, TEST),
        Task("dsprites-location", "structured", DSPRITES, 16, LOCATION, Cut("train", 80), Cut("train", 90), scale=255),
        Task("dsprites-orientation", "structured", DSPRITES, 16, ORIENTATION, Cut("train", 80), Cut("train", 90), 255),
        Task("kitti-distance", "structured", "kitti:3.*.*", 4, KITTI_DISTANCE, VALIDATION, TEST),
        Task("snorb-azimuth", "structured", SMALLNORB, 18, Stored("label_azimuth"), TEST, Cut("test", 50)),
        Task("snorb-elevation", "structured", SMALLNORB, 9, Stored("label_elevation"), TEST, Cut("test", 50)),
    )
}


class Score(NamedTuple, Generic[Mean]):
    """Means of top-1, in the unit of what was given; None where tasks are missing."""

    vtab: Mean
    natural: Mean
    specialized: Mean
    structured: Mean


def score(top1: Mapping[str, float]) -> Score[float | None]:
    """The mean over all 19 tasks, each counting once, and over each group, of top-1 by the names of tasks.

    Raises ValueError for a name that is no task's.

    >>> score({name: 0.5 for name in TASKS} | {"pets": 0.85}).natural
    0.55
    """
    if unknown := sorted(top1.keys() - TASKS.keys()):
        raise ValueError(f"VTAB-1k has no task {', '.join(unknown)}")

    def mean(names: Iterable[str]) -> float | None:
        figures = [top1.get(name) for name in names]
        known = [figure for figure in figures if figure is not None]
        return fmean(known) if len(known) == len(figures) else None

    groups = (mean(task.name for task in TASKS.values() if task.group == group) for group in get_args(Group))
    return Score(mean(TASKS), *groups)


PREFIX = "vtab:"
CHOOSE = "choose"
IMAGE = "image"


def list_vtab(request: DataRequest, reporter: Reporter, fetch: bool = True) -> Listing:
    """The 1,000 images of train800val200 for training, and the whole test set; with "@choose" train800 for training
    and val200 for validation, and no test images, on which nothing may be chosen.

    With `fetch`, what is not prepared is downloaded and prepared as by "tfds:NAME". Raises DataError for what is no
    task, cannot be had, or is not the data that the task is made of.
    """
    task, choosing = _typed(request)
    of_tfds = DataRequest(TFDS_PREFIX + task.tfds, data_dir=request.data_dir)
    try:
        with os_errors_as(DataError, f"cannot read {of_tfds.dataset}"):
            return _listed(task, choosing, prepared_builder(of_tfds, reporter, fetch), reporter)
    except DataError as error:
        raise DataError(f"{request.dataset}: {error}") from error


def _listed(task: Task, choosing: bool, builder: Any, reporter: Reporter) -> Listing:
    data_set = TFDS_PREFIX + builder.info.full_name
    class_names = _class_names(task, features_of(builder), data_set)
    expressions = _expressions(task, sizes_of(builder), choosing)
    chosen = resolved_splits(expressions, expressions, sizes_of(builder), absolute(builder), data_set)
    rows = read_rows(builder, chosen.images, IMAGE, task.label, reporter)
    listing = Listing(
        kind="VTAB-1k",
        location=Path(builder.data_dir).resolve(),
        class_names=class_names,
        ids=rows.ids,
        labels=np.array(rows.values, np.int32),
        contents=rows.contents if task.scale == 1 else Pixels.of(Multiplied(rows.contents, task.scale)),
        splits=chosen.splits,
        origins={split: f"{origin} of {data_set}" for split, origin in chosen.origins.items()},
        class_order=OWN_ORDER,
        cost=rows.cost,
        destroys_label=destroys_label(task.name, None),
        prescribed=True,
    )
    return without_unlabelled(listing, DataRequest(data_set, splits=expressions), data_set)


@dataclass(frozen=True)
class Multiplied:
    """Decoded images with every pixel multiplied, as the arrays of `Pixels`."""

    encoded: EncodedImages
    factor: int

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        with Image.open(io.BytesIO(self.encoded[index])) as image:
            return np.asarray(image, np.uint8) * np.uint8(self.factor)


def _typed(request: DataRequest) -> tuple[Task, bool]:
    """The task, and whether it is to choose."""
    name, at, purpose = request.dataset.removeprefix(PREFIX).partition("@")
    if name not in TASKS:
        raise DataError(f"VTAB-1k has no task {name!r}. It has: {', '.join(TASKS)}.{did_you_mean(name, list(TASKS))}")
    both = f"{PREFIX}{name} to report and {PREFIX}{name}@{CHOOSE} to choose"
    if at and purpose != CHOOSE:
        raise DataError(f"{request.dataset} is not known. There is {both}.")
    if request.splits:
        option = f"--{next(iter(request.splits))}-split"
        raise DataError(f"{option} means nothing for {request.dataset}: VTAB-1k fixes its splits. There is {both}.")
    return TASKS[name], bool(at)


def _class_names(task: Task, features: Features, data_set: str) -> tuple[str, ...]:
    """Raises DataError if what VTAB asks for is not among the features."""
    wanted = [key.partition("/")[0] for key in (IMAGE, *task.label.keys)]  # "objects/size" lies within a sequence
    if missing := [key for key in wanted if key not in features]:
        raise DataError(f"{data_set} has no {listed(map(repr, missing))}. It has: {listed(features)}.")
    names = task.label.class_names(features)
    if len(names) != task.classes:
        raise DataError(f"{data_set} has {len(names)} classes; in VTAB it has {task.classes}.")
    return names


def _expressions(task: Task, sizes: dict[str, int], choosing: bool) -> dict[Split, str]:
    """For TFDS, in whole images: VTAB rounds percentages down, which TFDS does not."""
    first_val, first_test = (cut.percent * sizes.get(cut.split, 0) // 100 for cut in (task.val200, task.test))
    train800 = f"train[:{TRAIN800}]"
    val200 = f"{task.val200.split}[{first_val}:{first_val + VAL200}]"
    if choosing:
        return {"train": train800, "validation": val200}
    return {"train": f"{train800}+{val200}", "test": f"{task.test.split}[{first_test}:]"}
