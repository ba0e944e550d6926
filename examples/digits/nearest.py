"""Find the nearest digits of a few, by the index that `featuretap publish` has made."""

import json
from pathlib import Path

import faiss
import pyarrow.dataset as ds
import pyarrow.parquet as pq

INDEX = Path("out/texture-index")
SHOWN, NEIGHBOURS = 5, 5

about = json.loads((INDEX / "about.json").read_text())
index = faiss.read_index(str(INDEX / about["index"]))
keys = pq.read_table(INDEX / about["keys"])["example_id"].to_pylist()
table = ds.dataset("out/features/data").to_table(columns=["example_id", "label"])
labels = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))

agree = 0
for row in range(SHOWN):
    query = index.reconstruct(row).reshape(1, -1)
    _, found = index.search(query, NEIGHBOURS + 1)
    near = [labels[keys[i]] for i in found[0].tolist() if i != row][:NEIGHBOURS]
    agree += near.count(labels[keys[row]])
    print(f"a {labels[keys[row]]} looks like {near}")
print(f"{agree} of {SHOWN * NEIGHBOURS} neighbours have the same label")
assert agree > SHOWN * NEIGHBOURS // 2
