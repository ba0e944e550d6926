"""Tell the workers of this process to finish what they are at, and begin no more."""

from __future__ import annotations

import threading

stopping = threading.Event()
"""Set it and this process's workers finish the shards they are at, and take no more."""
