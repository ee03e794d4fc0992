"""The embedded data set: scikit-learn's 1,797 handwritten digits, 8 x 8, ten classes.

UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998), CC BY 4.0.
"""

import hashlib
import importlib.util
import io
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperrule.data.dataset_info import DatasetInfo, Examples, Split, SplitInfo
from hyperrule.data.subset import hold_out
from hyperrule.errors import DataError


class Digits:
    """Examples "digits/0000" to "digits/1796", as lossless grey PNG; a fifth of each class is test."""

    def __init__(self, split_seed: int) -> None:
        self.split_seed = split_seed

    @cached_property
    def info(self) -> DatasetInfo:
        images, labels = self._arrays
        train, test = self._split
        origin = f"of scikit-learn's digits, stratified, split seed {self.split_seed}"
        splits: dict[Split, SplitInfo] = {}
        for name, indices, share in (("train", train, "80 %"), ("test", test, "20 %")):
            per_class = tuple(np.bincount(labels[indices], minlength=10).tolist())
            splits[name] = SplitInfo(examples=len(indices), per_class=per_class, origin=f"{share} {origin}")  # type: ignore[index]
        return DatasetInfo(
            name="digits",
            kind="digits",
            location=None,
            class_names=tuple(str(digit) for digit in range(10)),
            splits=splits,
            height=8,
            width=8,
            sha256=hashlib.sha256(images.tobytes() + labels.tobytes() + test.tobytes()).hexdigest(),
            destroys_label={
                "flip": "a mirrored digit is no longer that digit",
                "crop": "a digit fills its image, so that a crop cuts strokes off",
            },
        )

    def examples(self, split: Split) -> Examples:
        images, labels = self._arrays
        train, test = self._split
        everything = Examples(
            [f"digits/{i:04d}" for i in range(len(labels))], labels, [_png(image) for image in images]
        )
        return everything.take({"train": train, "test": test}[split])

    @cached_property
    def _arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Images uint8 [1797, 8, 8], 0-255, and labels. Read from scikit-learn's data file: importing
        scikit-learn costs more time than everything else that `hyperrule plan` does."""
        package = importlib.util.find_spec("sklearn")
        if package is None or not package.submodule_search_locations:
            raise DataError(
                "data set 'digits' comes with scikit-learn, which is not installed: pip install scikit-learn"
            )
        table = np.loadtxt(
            Path(package.submodule_search_locations[0], "datasets/data/digits.csv.gz"), delimiter=",", dtype=np.int32
        )
        grey = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)  # the file's values are 0-16
        return grey.reshape(-1, 8, 8), table[:, 64]

    @cached_property
    def _split(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return hold_out(self._arrays[1], self.split_seed)


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
