"""A worker for environments of type PROCESS, as the boot program of Beam's image is."""

from __future__ import annotations

import argparse

import grpc
from apache_beam.portability.api.beam_provision_api_pb2 import GetProvisionInfoRequest
from apache_beam.portability.api.beam_provision_api_pb2_grpc import (
    ProvisionServiceStub,
)
from apache_beam.runners.worker.sdk_worker import SdkHarness

parser = argparse.ArgumentParser()
parser.add_argument("--id", required=True)
parser.add_argument("--provision_endpoint", required=True)
arguments, _ = parser.parse_known_args()
with grpc.insecure_channel(arguments.provision_endpoint) as channel:
    who = [("worker_id", arguments.id)]
    service = ProvisionServiceStub(channel)
    answer = service.GetProvisionInfo(GetProvisionInfoRequest(), metadata=who)
SdkHarness(answer.info.control_endpoint.url, worker_id=arguments.id).run()
