"""Processes that measure points: joblib's, or those of a dask or ray cluster."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from hwq.errors import HwqError, InputError, ToolError

Backend = Literal["loky", "dask", "ray"]
BACKENDS: tuple[Backend, ...] = ("loky", "dask", "ray")
CONNECT_SECONDS = 10.0
"""How long a cluster may take to answer."""
START_SECONDS = 120.0
"""How long workers started here may take to start."""

K = TypeVar("K")
R = TypeVar("R")


class WorkersLost(Exception):
    """The pool failed, not the work: a process was killed, or a cluster went away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """jobs: processes, one CPU thread each; None for as many as there are CPUs. address: of a running
    cluster (dask's scheduler as tcp://host:8786, ray's head as host:6379); without one its workers are
    started here and stopped at the end."""

    backend: Backend = "loky"
    jobs: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.address is not None and self.backend == "loky":
            raise InputError("--address goes with --backend dask or ray; loky's workers run here")

    @property
    def count(self) -> int:
        return self.jobs or _cpus()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(
    workers: Workers, work: Callable[..., R], calls: Iterable[tuple[K, tuple[Any, ...]]]
) -> Iterator[tuple[K, R]]:
    """(key, work(*arguments)) of every call, as they finish; at most twice as many as workers are in flight.

    `calls` is read in other threads than the caller's. What `work` or `calls` raise is raised here.
    Raises WorkersLost where the pool failed, InputError for a missing extra, ToolError for a cluster that
    does not answer.
    """
    from joblib import delayed

    broken: list[BaseException] = []

    def told() -> Iterator[Any]:
        # joblib reads on in a thread of its own, where an exception would be lost
        try:
            for key, arguments in calls:
                yield delayed(_kept)(work, key, workers.backend == "loky", *arguments)
        except BaseException as error:
            broken.append(error)

    with _POOLS[workers.backend](workers):
        results = _results(told())
        try:
            while True:
                try:
                    key, result, error = next(results)
                except StopIteration:
                    break
                except Exception as lost:
                    raise WorkersLost(f"{type(lost).__name__}: {' '.join(str(lost).split())[:200]}") from lost
                if error is not None:
                    raise error
                yield key, result
        finally:
            results.close()
    if broken:
        raise broken[0]


def _results(calls: Iterator[Any]) -> Generator[Any, None, None]:
    """Of joblib's pool of the moment: as they finish, or where it cannot tell, in rounds of all workers."""
    from joblib import Parallel
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    if backend.supports_return_generator:
        yield from Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")(calls)
        return
    with Parallel(batch_size=1) as pool:
        while together := list(islice(calls, pool.n_jobs)):
            yield from pool(together)


def _kept(
    work: Callable[..., R], key: K, ours: bool, *arguments: Any
) -> tuple[K, R | None, Exception | None]:
    """What the work raises is a result: so any other exception is the pool's. ours: in a child of hwq's."""
    if ours:
        _end_with_parent(os.getppid())
    try:
        return key, work(*arguments), None
    except Exception as error:
        # an exception of a class that the other side cannot build would look like a dead worker
        return key, None, error if isinstance(error, HwqError) else RuntimeError(repr(error))


@cache
def _end_with_parent(parent: int) -> None:
    """loky's workers would wait for minutes for a parent that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _loky(workers: Workers) -> Iterator[None]:
    from joblib import parallel_config
    from joblib.externals.loky import get_reusable_executor

    try:
        with parallel_config("loky", n_jobs=workers.count, inner_max_num_threads=1):
            yield
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def _dask(workers: Workers) -> Iterator[None]:
    distributed = _extra("distributed", "dask")
    from joblib import parallel_config

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    cluster = None
    try:
        if workers.address is None:
            cluster = distributed.LocalCluster(
                n_workers=workers.count,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
            client = distributed.Client(cluster)
        else:
            _connected(workers.address, 8786).close()
            _identified(distributed, workers.address)
            client = distributed.Client(workers.address, timeout=CONNECT_SECONDS)
        with client:
            try:
                # joblib counts the workers once, and with one or none does all the work here
                needed = workers.count if workers.address is None else 1
                client.wait_for_workers(needed, timeout=START_SECONDS if cluster else CONNECT_SECONDS)
            except TimeoutError:
                where = workers.address or "this machine"
                raise ToolError(f"the dask cluster at {where} has too few workers; start some") from None
            with parallel_config("dask", n_jobs=-1 if workers.address is None else workers.jobs or -1):
                yield
    finally:
        if cluster is not None:
            cluster.close()


@contextmanager
def _ray(workers: Workers) -> Iterator[None]:
    ray = _extra("ray", "ray")
    from joblib import parallel_config

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if workers.address is None:
        ray.init(address="local", num_cpus=workers.count, include_dashboard=False, **quiet)
    else:
        with _connected(workers.address, 6379) as connection:
            _speaks_grpc(connection, workers.address)
        try:
            ray.init(address=workers.address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreachable(workers.address, error) from None
    try:
        importlib.import_module("ray.util.joblib").register_ray()
        there = int(ray.cluster_resources().get("CPU", 0))
        if workers.count > there and workers.jobs:
            raise InputError(f"--jobs {workers.jobs}: the ray cluster has {there} CPUs")
        with parallel_config("ray", n_jobs=min(workers.count, there) if workers.jobs else there):
            yield
    finally:
        ray.shutdown()


_POOLS = {"loky": _loky, "dask": _dask, "ray": _ray}


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"--backend {extra} needs {module}: pip install 'hwq[{extra}]'") from None


# the clients themselves wait for ever, or retry for minutes and log it


def _connected(address: str, port: int) -> socket.socket:
    """A connection to what listens there; port: where the address has none."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        host, named = parts.hostname, parts.port
    except ValueError:
        host = named = None
    if not host:
        raise InputError(f"--address {address}: write HOST:PORT, or tcp://HOST:PORT for dask")
    try:
        return socket.create_connection((host, named or port), timeout=CONNECT_SECONDS)
    except OSError as error:
        raise _unreachable(address, error) from None


def _identified(distributed: Any, address: str) -> None:
    """Raise where no dask scheduler answers."""

    async def ask() -> None:
        async with distributed.rpc(address) as scheduler:
            await scheduler.identity()

    try:
        asyncio.run(asyncio.wait_for(ask(), CONNECT_SECONDS))
    except Exception as error:
        raise _unreachable(address, error) from None


def _speaks_grpc(connection: socket.socket, address: str) -> None:
    """Raise where no gRPC server answers, which ray's head is: HTTP/2's preface has a SETTINGS frame in reply
    (RFC 9113, section 3.4)."""
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        head = connection.recv(9)
    except OSError as error:
        raise _unreachable(address, error) from None
    if head[3:4] != b"\x04":
        raise _unreachable(address, OSError("what listens there is no ray cluster"))


def _unreachable(address: str, error: Exception) -> ToolError:
    why = " ".join(str(error).split())[:200] or "no reply"
    return ToolError(f"no cluster answers at {address}: {why}; check --address, and that it runs")
