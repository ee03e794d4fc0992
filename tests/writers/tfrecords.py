"""Write TFRecord shards, two a split, with features image/encoded and image/class/text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from writers import LabelledImage


def write(folder: Path, images: Sequence[LabelledImage]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    for split in dict.fromkeys(image.split for image in images):
        members = [image for image in images if image.split == split]
        half = (len(members) + 1) // 2
        parts = [part for part in (members[:half], members[half:]) if part]
        for number, part in enumerate(parts):
            examples = [
                {"image/encoded": image.encoded, "image/class/text": image.class_name.encode()} for image in part
            ]
            shard(folder / f"{split}.tfrecord-{number:05}-of-{len(parts):05}", examples)
    return {"dataset": str(folder)}


def shard(file: Path, examples: Sequence[Mapping[str, Any]], compression: str = "") -> Path:
    """Write examples (feature -> bytes, int or float, single or as a list) and return the path."""
    with tf.io.TFRecordWriter(str(file), tf.io.TFRecordOptions(compression)) as writer:
        for example in examples:
            features = {key: _feature(value) for key, value in example.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return file


def _feature(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))
