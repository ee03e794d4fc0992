"""Features of a SavedModel, then scikit-learn's logistic regression with C by cross-validation.

    python logistic.py MODULE LOW,HIGH TRAIN TEST SIDE SECONDS

Arguments are those of hub_tutorial.py. Features are standardised. The time counts from the start of the process to the
end of the regression; features of test images are not counted. It takes as long as it takes: SECONDS only says how many
training images have a turn, if not all. Prints JSON: top1, images, seconds.
"""

import json
import sys
import time
from pathlib import Path

START = time.monotonic()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from sklearn.linear_model import LogisticRegressionCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

BATCH = 32
FEATURES_SHARE = 0.8  # of the time: the rest is for the regression


def main(module: str, pixels: str, train: str, test: str, side: str, seconds: str) -> None:
    low, high = map(float, pixels.split(","))
    names = sorted(path.name for path in Path(train).iterdir())
    loaded = tf.saved_model.load(module)

    def read(file: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(file), 3), [int(side)] * 2) / 255 * (high - low) + low

    @tf.function
    def features_of(batch: tf.Tensor) -> tf.Tensor:
        return loaded(batch, False)

    def features(folder: Path, until: float) -> tuple[np.ndarray, np.ndarray]:
        files = np.array(sorted(str(path) for name in names for path in (folder / name).iterdir()))
        files = np.random.default_rng(0).permutation(files)
        found = []
        for batch in tf.data.Dataset.from_tensor_slices(files).map(read, tf.data.AUTOTUNE).batch(BATCH).prefetch(2):
            found.append(features_of(batch).numpy())
            if time.monotonic() - START > until:
                break
        labels = np.array([names.index(Path(file).parent.name) for file in files])
        together = np.concatenate(found)
        return together, labels[: len(together)]

    x, y = features(Path(train), FEATURES_SHARE * float(seconds))
    fitted = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-4, 0, 5), cv=3, max_iter=300))
    fitted.fit(x, y)
    taken = time.monotonic() - START
    print(json.dumps({"top1": fitted.score(*features(Path(test), float("inf"))), "images": len(x), "seconds": taken}))


main(*sys.argv[1:])
