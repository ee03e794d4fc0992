"""Write with TFDS' own writer, as `tfds build` does, in the given order; readers cannot import the builder's code."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from writers import LabelledImage


def write(folder: Path, images: Sequence[LabelledImage]) -> dict[str, Any]:
    class_names = sorted({image.class_name for image in images})

    class Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=class_names)}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
            return {split: self._generate_examples(split) for split in dict.fromkeys(image.split for image in images)}

        def _generate_examples(self, split: str) -> Iterator[Any]:
            for number, image in enumerate(image for image in images if image.split == split):
                yield number, {"image": image.encoded, "label": image.class_name}

    Written(data_dir=folder).download_and_prepare()
    return {"dataset": "tfds:written", "data_dir": str(folder)}
