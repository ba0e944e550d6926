"""A pool of workers on loopback, which several TaskManagers on one machine may share.

Beam's own knows a worker by an id that each TaskManager gives for itself: what one is
done with would be stopped for another. Here workers end with their connection.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2 as api
from apache_beam.portability.api import beam_fn_api_pb2_grpc as service
from apache_beam.runners.worker.worker_pool_main import (
    BeamFnExternalWorkerPoolServicer,
)


class Pool(BeamFnExternalWorkerPoolServicer):
    def StopWorker(self, *_: Any) -> Any:  # noqa: N802  # Beam's
        return api.StopWorkerResponse()


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor())
    pool = Pool(use_process=True)
    service.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()
