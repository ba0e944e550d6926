"""Make a TFDS dataset of scikit-learn's handwritten digits, without a download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 images of 8 x 8 pixels, of the test set of UCI's optical digits."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits that scikit-learn brings along.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, _: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = load_digits(return_X_y=True)
        for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            # Pixels count ink from 0 to 16.
            image = (pixels.reshape(8, 8, 1) * 15.9375).astype(np.uint8)
            yield index, {"image": image, "label": int(label)}


if __name__ == "__main__":
    builder = Digits(data_dir="data")
    builder.download_and_prepare()
    print(f"{builder.info.splits['train'].num_examples} images in {builder.data_dir}")
