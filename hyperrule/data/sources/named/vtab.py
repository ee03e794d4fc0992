"""The tasks of VTAB-1k: "vtab:NAME" to report, "vtab:NAME@choose" to choose hyper-parameters, read from TFDS' data."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperrule.data.images import Contents, Pixels
from hyperrule.data.label_safety import destroys_label
from hyperrule.data.listing import DataRequest, Listing, Split
from hyperrule.data.sources.named.names import OWN_ORDER, resolved_splits, without_unlabelled
from hyperrule.data.sources.named.tfds import absolute, features_of, read_rows, sizes_of
from hyperrule.data.sources.named.tfds_builder import PREFIX as TFDS_PREFIX
from hyperrule.data.sources.named.tfds_builder import prepared_builder
from hyperrule.data.sources.named.vtab_labels import Features
from hyperrule.data.sources.named.vtab_tasks import TASKS, TRAIN800, VAL200, Task
from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import did_you_mean, listed

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

    encoded: Contents
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
