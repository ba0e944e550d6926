"""A worker for environments of type PROCESS, as the boot program of Beam's image is."""

from __future__ import annotations

import argparse

import grpc
from apache_beam.portability.api import beam_provision_api_pb2 as api
from apache_beam.portability.api import beam_provision_api_pb2_grpc as service
from apache_beam.runners.worker.sdk_worker import SdkHarness


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    arguments, _ = parser.parse_known_args()
    with grpc.insecure_channel(arguments.provision_endpoint) as channel:
        answer = service.ProvisionServiceStub(channel).GetProvisionInfo(
            api.GetProvisionInfoRequest(), metadata=[("worker_id", arguments.id)]
        )
    SdkHarness(answer.info.control_endpoint.url, worker_id=arguments.id).run()


if __name__ == "__main__":
    main()
