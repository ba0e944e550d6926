"""Look at the table, and compare k-NN on an activation with k-NN on the pixels."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

TABLE = "out/features"
COLUMN = "activation_1"


def accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """5-fold accuracy of a 5-nearest-neighbours classifier."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_score(KNeighborsClassifier(5), features, labels, cv=folds)
    return float(scores.mean())


def main() -> None:
    table = pq.read_table(TABLE)
    print(table.schema.remove_metadata())
    print("\nfirst rows (vectors cut to three values):")
    for row in table.slice(0, 3).to_pylist():
        cut = {
            name: [round(v, 3) for v in value[:3]] if isinstance(value, list) else value
            for name, value in row.items()
        }
        print(f"  {cut}")

    unseen = table.slice(table.num_rows // 2)
    labels = unseen["label"].to_numpy()
    print(f"\n5-fold k-NN accuracy on the {len(labels)} images not used in training:")
    for name, column in ((COLUMN, COLUMN), ("raw pixels", "image")):
        features = np.stack(unseen[column].to_numpy())
        print(f"  {name:<14}{accuracy(features, labels):.4f}")

    print(f"""
The table is plain Parquet: read {TABLE} with pandas, DuckDB, Spark, ...
What next:
  featuretap taps digits.toml     every activation that you could have
  featuretap plan digits.toml     what a run would write
  edit digits.toml, or copy the directory for a dataset and a model of your own""")


if __name__ == "__main__":
    main()
