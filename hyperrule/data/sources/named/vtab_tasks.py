"""VTAB-1k: its 19 tasks as a table, and its score.

Source: google-research/task_adaptation (in short T): task_adaptation/data/*.py for labels and splits, their *_test.py
for the numbers of classes, scripts/run_all_tasks.sh for which features are asked for. Groups: paper, arXiv 1910.04867.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

from hyperrule.data.sources.named.vtab_labels import Binned, Counted, Label, Nearest, Stored, ranges

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
