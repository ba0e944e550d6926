"""Tell this process's workers to finish the shards they are at and to begin no other."""

from __future__ import annotations

import threading

stopping = threading.Event()
"""Set it and this process's workers finish the shards they are at, and take no more."""
