"""A worker for environments of type PROCESS, as the boot program of Beam's image is."""

from __future__ import annotations

import argparse

from apache_beam.runners.worker.sdk_worker import SdkHarness

parser = argparse.ArgumentParser()
parser.add_argument("--id", required=True)
parser.add_argument("--control_endpoint", required=True)
arguments, _ = parser.parse_known_args()
SdkHarness(arguments.control_endpoint, worker_id=arguments.id).run()
