"""A Ray cluster on the loopback: a head without CPUs and nodes of one CPU each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_STORE = 80 << 20  # bytes of the shared memory of a node
HOST = "127.0.0.2"
"""A loopback address, but not 127.0.0.1, which Ray replaces by the address of the machine."""
_NODE = {"object_store_memory": _STORE, "node_ip_address": HOST}


@contextmanager
def small_cluster(nodes: int = 2, *, client_port: int | None = None) -> Iterator[Any]:
    """Start a cluster, whose `address` an executor connects to; skip where Ray is missing."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'inspection-toolkit[ray]'")
    from ray.cluster_utils import Cluster

    head = {**_NODE, "num_cpus": 0, "include_dashboard": False}
    if client_port is not None:
        head["ray_client_server_port"] = client_port
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("TOOLKIT_ENGINE", "torch")  # the fastest engine is not what is tested here
        # The proxy of Ray's client forks to start a server. On a busy machine gRPC's fork handlers
        # began threads in the child, which broke before it was replaced: "Starting Ray client
        # server failed".
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(nodes):
                add_node(cluster)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster: Any, **options: Any) -> Any:
    """Add a node of one CPU."""
    return cluster.add_node(num_cpus=1, **_NODE, **options)
