"""The embedded data set: scikit-learn's 1,797 handwritten digits, 8 x 8, ten classes.

UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998), CC BY 4.0.
"""

import importlib.util
from pathlib import Path

import numpy as np

from hyperrule.data.images import Pixels
from hyperrule.data.listing import DataRequest, Listing
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter


def list_digits(request: DataRequest, reporter: Reporter) -> Listing:
    """Images "digits/0000" to "digits/1796". Read from scikit-learn's data file: importing scikit-learn costs more
    time than everything else that `hyperrule plan` does."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("data set 'digits' comes with scikit-learn, which is not installed: pip install scikit-learn")
    file = Path(package.submodule_search_locations[0], "datasets/data/digits.csv.gz")
    table = np.loadtxt(file, delimiter=",", dtype=np.int32)
    grey = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)  # the file's values are 0-16
    return Listing(
        kind="digits",
        location=None,
        class_names=tuple(map(str, range(10))),
        ids=[f"digits/{number:04d}" for number in range(len(table))],
        labels=table[:, 64],
        contents=Pixels.of(grey.reshape(-1, 8, 8)),
        class_order="0 to 9",
        destroys_label={
            "flip": "a mirrored digit is no longer that digit",
            "crop": "a digit fills its image, so that a crop cuts strokes off",
        },
    )
