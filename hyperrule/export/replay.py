"""Run an exported SavedModel as a stranger would: this file imports TensorFlow and nothing of hyperrule.

python replay.py SAVED_MODEL FOLDER_OF_IMAGES OUTPUT.npz
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(saved_model: str, images: str, output: str) -> None:
    classify = tf.saved_model.load(saved_model).signatures["serving_default"]
    answers = [classify(image_bytes=tf.constant([path.read_bytes()])) for path in sorted(Path(images).iterdir())]
    np.savez(
        output,
        probabilities=np.concatenate([answer["probabilities"].numpy() for answer in answers]),
        labels=np.array([answer["label"].numpy()[0].decode() for answer in answers]),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
