"""TensorFlow Hub's tutorial of retraining (tensorflow.org/hub/tutorials/tf2_image_retraining), for a given time.

    python hub_tutorial.py MODULE LOW,HIGH TRAIN TEST SIDE SECONDS frozen|fine-tuned

MODULE is a SavedModel of features for images in [LOW, HIGH]; TRAIN and TEST are folders CLASS/*.jpg. A dense layer on
the features, batches of 16, images squeezed to SIDE px: frozen with Adam at 0.001, or the whole network with SGD at
0.005, momentum 0.9 and label smoothing 0.1. The time counts from the start of the process to the end of training;
evaluation is not counted. Prints JSON: top1, steps, and the seconds until the end of training.
"""

import json
import sys
import time
from pathlib import Path

START = time.monotonic()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

BATCH = 16


def images(folder: Path, names: list[str], side: int, low: float, high: float, shuffled: bool) -> tf.data.Dataset:
    files = sorted(path for name in names for path in (folder / name).iterdir())
    labels = [names.index(path.parent.name) for path in files]

    def read(file: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(file), 3), [side, side])
        return pixels / 255 * (high - low) + low, tf.one_hot(label, len(names))

    listed = tf.data.Dataset.from_tensor_slices(([str(file) for file in files], labels))
    listed = listed.shuffle(len(files), seed=0).repeat() if shuffled else listed
    return listed.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(2)


def main(module: str, pixels: str, train: str, test: str, side: str, seconds: str, how: str) -> None:
    low, high = map(float, pixels.split(","))
    names = sorted(path.name for path in Path(train).iterdir())
    training = images(Path(train), names, int(side), low, high, shuffled=True)
    testing = images(Path(test), names, int(side), low, high, shuffled=False)
    loaded, fine_tuned = tf.saved_model.load(module), how == "fine-tuned"
    width = int(loaded(tf.zeros([1, int(side), int(side), 3]), False).shape[1])
    head = keras.layers.Dense(len(names))
    head.build((None, width))
    optimizer = keras.optimizers.SGD(0.005, momentum=0.9) if fine_tuned else keras.optimizers.Adam(0.001)
    trained = list(head.trainable_variables)
    own = list(loaded.trainable_variables) if fine_tuned else []
    velocities = [tf.Variable(tf.zeros_like(v)) for v in own]
    loss_of = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)

    @tf.function
    def step(batch: tf.Tensor, targets: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = loss_of(targets, head(loaded(batch, fine_tuned)))
        variables = [variable.value for variable in trained]
        gradients = tape.gradient(loss, [*variables, *own])
        optimizer.apply_gradients(zip(gradients[: len(trained)], trained, strict=True))
        for variable, velocity, gradient in zip(own, velocities, gradients[len(trained) :], strict=True):
            velocity.assign(0.9 * velocity - 0.005 * gradient)
            variable.assign_add(velocity)

    @tf.function
    def answer(batch: tf.Tensor) -> tf.Tensor:
        return tf.argmax(head(loaded(batch, False)), axis=1)

    steps = 0
    for batch, targets in training:
        step(batch, targets)
        steps += 1
        if time.monotonic() - START > float(seconds):
            break
    taken = time.monotonic() - START
    right = [answer(batch).numpy() == targets.numpy().argmax(axis=1) for batch, targets in testing]
    flat = [bool(one) for part in right for one in part]
    print(json.dumps({"top1": sum(flat) / len(flat), "steps": steps, "seconds": taken}))


main(*sys.argv[1:])
