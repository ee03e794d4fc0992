"""What is asked of a data set before anything is trained: its faults, wrong labels, and whether more would help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperrule.data.open import make_data_recipe, source_of
from hyperrule.errors import RecipeError, UserError
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter

if TYPE_CHECKING:
    from hyperrule.audit.check.page import CheckReport
    from hyperrule.audit.label_errors import LabelErrors
    from hyperrule.audit.learning_curve.curve import LearningCurve


def check(dataset: str | Path, *, quiet: bool = False, **options: Any) -> CheckReport:
    """What is wrong with a data set: every image decoded, compared with all others, and judged as `finetune` would.

    `options` are those of a recipe that say which images: `train_split`, `validation_split`, `test_split`, `data_dir`,
    `image_key`, `label_key`, `split_seed` and `exclude`. Raises UserError if the data set cannot be read at all.
    """
    reporter = Reporter(quiet)
    with os_errors_as(UserError, "a path cannot be used"):
        recipe = make_data_recipe("check", dataset, options)
        source = source_of(recipe.model_copy(update={"skip_corrupt": True}), reporter)

        from hyperrule.audit.check.check import check_source

        return check_source(source, reporter)


def learning_curve(
    dataset: str | Path, *, size: int | None = None, quiet: bool = False, **options: Any
) -> LearningCurve:
    """Would more labels help? Accuracy of a closed-form probe against the number of labels, and what twice and four
    times as many should bring, with its uncertainty.

    Features are those of a frozen backbone of images of `size` x `size` pixels, by default 128; they are kept in the
    cache folder. `options` are those of a recipe that say which images (`train_split`, `validation_split`,
    `test_split`, `data_dir`, `image_key`, `label_key`, `split_seed`, `exclude`, `skip_corrupt`, `strict_data`), and
    `backbone` and `input_range`. Raises UserError if the request cannot be met, RunError if the work cannot be
    finished.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        from hyperrule.audit.learning_curve.curve import find_learning_curve
        from hyperrule.evaluation.features import frozen_features

        return find_learning_curve(
            frozen_features(make_data_recipe("learning-curve", dataset, options), size, Reporter(quiet))
        )


def label_errors(
    dataset: str | Path,
    *,
    split: str | None = None,
    top: int | None = None,
    size: int | None = None,
    quiet: bool = False,
    **options: Any,
) -> LabelErrors:
    """Images whose label is probably wrong: those that a closed-form probe, which has seen neither them nor images
    equal to them, finds in another class.

    They are the `top` most suspicious, by default those that stand out. `split` is "train", "validation", "test" or
    "all"; by default what is trained on, and all of a data set that is not split. `size` and `options` are as for
    `learning_curve`. Raises UserError if the request cannot be met, RunError if the work cannot be finished.
    """
    with os_errors_as(UserError, "a path cannot be used"):
        if top is not None and (isinstance(top, bool) or top < 1):
            raise RecipeError(f"top must be at least 1. Received: {top!r}")
        from hyperrule.audit.label_errors import chosen_splits, find_label_errors
        from hyperrule.evaluation.features import frozen_features

        frozen = frozen_features(make_data_recipe("label-errors", dataset, options), size, Reporter(quiet))
        return find_label_errors(frozen, chosen_splits(frozen.source, split), top)
