#!/usr/bin/env bash
# The steps of the digits example, one after the other.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say python digits_dataset.py
test -f digits.keras || say python digits_model.py
say featuretap taps digits.toml
say featuretap run digits.toml
say featuretap verify out/features
say featuretap report out/features --label label
say python explore.py
say featuretap publish out/features --to faiss --set column=texture --set path=out/texture-index
say python nearest.py
