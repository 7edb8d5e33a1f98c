"""A Ray cluster: connect to it, and refuse nodes whose version of this package differs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from toolkit import __version__
from toolkit.errors import MissingExtraError, RunError

_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 60.0
HEAD = "node:__internal_head__"
"""A resource that the node has on which Ray itself runs."""


@contextmanager
def ray_cluster(
    address: str | None = None, *, say: Callable[[str], None] = lambda _: None
) -> Iterator[Any]:
    """Connect to a Ray cluster, and yield the module `ray`; a connection that is there is used.

    Args:
        address: `auto` for the cluster of this machine, `ray://host:port` or `host:port`; None for
            that of this machine if there is one, else a new one that ends with the connection.
        say: receives one line on the cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        RunError: nobody answers at the address, or a node has another version of this package.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would set CUDA_VISIBLE_DEVICES to nothing for tasks that ask for no GPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", extra="ray", purpose="use --executor ray") from error
    if ray.is_initialized():
        yield ray
        return
    _check_reachable(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            ignore_reinit_error=True,
            **({"include_dashboard": False} if address is None and not _running_here() else {}),
        )
    except Exception as error:  # Ray raises a dozen kinds, and those of gRPC
        ray.shutdown()  # else a ray:// address that failed breaks all later connections
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"--address {address or 'auto'}: no Ray cluster answers ({reason}); start one with: "
            "ray start --head"
        ) from error
    try:
        check_nodes(ray, say=say)
        yield ray
    finally:
        ray.shutdown()


def check_nodes(ray: Any, *, say: Callable[[str], None] = lambda _: None) -> None:
    """Refuse a cluster in which a node has another version of this package, or none.

    Raises:
        RunError: names each such node and its version.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Inside of this function, so that it is sent by value: it must run where this package is
    # missing, too.
    def version() -> str:
        try:
            import toolkit

            return str(toolkit.__version__)
        except ImportError:
            return "not installed"

    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0]
    probe = ray.remote(num_cpus=0, max_retries=0)(version)
    asked = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[probe.options(scheduling_strategy=strategy).remote()] = node
    answered, silent = (
        ray.wait(list(asked), num_returns=max(len(asked), 1), timeout=_PROBE_SECONDS)
        if asked
        else ([], [])
    )
    problems = []
    for ref in answered:
        try:
            found = ray.get(ref)
        except ray.exceptions.RayError as error:
            say(f"node {node_name(asked[ref])}: is left out ({type(error).__name__})")
            continue
        if found != __version__:
            problems.append(f"{node_name(asked[ref])} has {found}")
    for ref in silent:
        say(f"node {node_name(asked[ref])}: does not answer yet")
    if problems:
        raise RunError(
            f"other versions of inspection-toolkit than {__version__} here: {', '.join(problems)}; "
            "install the same version on all nodes"
        )
    cpus = sum(node["Resources"].get("CPU", 0) for node in nodes)
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
    say(f"Ray cluster: {len(nodes)} nodes, {cpus:g} CPUs, {gpus:g} GPUs")


def node_name(node: dict[str, Any]) -> str:
    """Return address and the beginning of the id of a node, since one machine may hold several."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def check_same_version(version: str, *, where: str) -> str | None:
    """Return why a worker must not answer a driver of another version; None if it may."""
    if version == __version__:
        return None
    return (
        f"node {where}: has version {__version__} of inspection-toolkit, this command {version}; "
        "install the same version"
    )


def _running_here() -> bool:
    return "RAY_ADDRESS" in os.environ or os.path.exists("/tmp/ray/ray_current_cluster")  # noqa: PTH110


def _check_reachable(address: str | None) -> None:
    """Refuse an address where nothing listens, for which Ray would wait half a minute."""
    if address in (None, "auto", "local"):
        return
    parts = urlsplit(address if "://" in str(address) else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise RunError(f"--address {address}: give auto, ray://HOST:PORT or HOST:PORT")
    if parts.scheme == "ray":
        try:
            import grpc  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("grpcio", extra="ray", purpose="use ray://") from error
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise RunError(
            f"--address {address}: nobody answers ({error.strerror or error}); start a cluster "
            "with: ray start --head"
        ) from error
