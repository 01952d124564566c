"""Owns Optuna's tables over gRPC: a server before the database, and a storage that asks it instead.

Hundreds of workers then share the server's few connections for what Optuna keeps; genopt's own rows, leases and claims
go straight to the database. The protocol and both ends are Optuna's; what is ours is that nobody waits forever and that
an absence, of the server or of the database behind it, is one that workers wait out.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa
from optuna.storages import BaseStorage

from genopt.connections import engine_options
from genopt.database import Away, masked, passing, with_driver
from genopt.errors import MissingExtra, StudyError
from genopt.study.storage import open_storage, refuse_strangers

DEADLINE = 60.0  # seconds that a call may take
THREADS = 10  # calls that the server answers at once, each over a connection of its own
CHECK = "genopt:proxy"  # study attribute: written through a proxy, and looked up in the database
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # all trials of a long study are more than the default of 4 MB
    ("grpc.enable_http_proxy", 0),  # a storage is never behind the proxy for the web
    ("grpc.max_reconnect_backoff_ms", 3000),
]


def open_proxy(address: str, url: str, *, deadline: float = DEADLINE) -> BaseStorage:
    """Optuna's storage behind the proxy at `address` (host:port), whose calls raise Away while it or its database is
    not there. `url` is the database itself. Raises StudyError, or MissingExtra."""
    refuse_strangers(with_driver(url), create=True)
    return _client(address, deadline)


def serve(url: str, host: str, port: int) -> tuple[Any, int]:
    """Begin to answer for a storage; gives gRPC's server, which its `stop` ends, and its port (0 takes a free one).
    Raises StudyError, or MissingExtra."""
    grpc = _grpc()
    from optuna.storages._grpc.auto_generated.api_pb2_grpc import add_StorageServiceServicer_to_server as answer_for
    from optuna.storages._grpc.servicer import OptunaStorageProxyService

    class Absences(grpc.ServerInterceptor):  # type: ignore[misc, name-defined]
        """Says of a database that is away that it is, and no more: what the driver says may name its address."""

        def intercept_service(self, continuation: Any, details: Any) -> Any:
            handler = continuation(details)
            if handler is None:
                return None

            def answer(request: Any, context: Any) -> Any:
                try:
                    return handler.unary_unary(request, context)
                except Exception as error:
                    if passing(error):
                        context.abort(grpc.StatusCode.UNAVAILABLE, "the proxy's database is away")
                    raise

            return grpc.unary_unary_rpc_method_handler(
                answer, handler.request_deserializer, handler.response_serializer
            )

    storage, _ = open_storage(url)
    server = grpc.server(
        ThreadPoolExecutor(THREADS, thread_name_prefix="genopt-proxy"),
        interceptors=[Absences()],
        options=[("grpc.so_reuseport", 0), *_OPTIONS],  # else two servers would share a port
    )
    answer_for(OptunaStorageProxyService(storage), server)  # type: ignore[no-untyped-call]
    try:
        taken = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError:
        raise StudyError(f"--host {host} --port {port}: cannot be listened on", hint="is the port taken?") from None
    server.start()
    return server, int(taken)


def same_database(storage: BaseStorage, study_id: int, url: str, address: str) -> None:
    """Raise StudyError unless the proxy's database is the one at `url`: what is written through it has to be there."""
    engine = sa.create_engine(with_driver(url), **engine_options(with_driver(url)))
    query = sa.text("SELECT value_json FROM study_user_attributes WHERE study_id = :study AND key = :key")
    try:
        for _ in range(5):  # another worker may write in between
            mark = uuid.uuid4().hex
            storage.set_study_user_attr(study_id, CHECK, mark)
            with engine.connect() as connection:
                found = connection.execute(query, {"study": study_id, "key": CHECK}).scalar()
            if found is not None and (mark in found or storage.get_study_user_attrs(study_id).get(CHECK) in found):
                return
    finally:
        engine.dispose()
    raise StudyError(
        f"storage_proxy: {address} leads to another database than {masked(url)}",
        hint="start it for that one: genopt studies proxy STORAGE",
    )


def _client(address: str, deadline: float) -> BaseStorage:
    grpc = _grpc()
    from optuna.storages import GrpcStorageProxy
    from optuna.storages._grpc.auto_generated import api_pb2_grpc
    from optuna.storages._grpc.client import GrpcClientCache

    absent = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

    class Calls:
        """Optuna's calls, which end in time."""

        def __init__(self, stub: Any) -> None:
            self._stub = stub

        def __getattr__(self, name: str) -> Callable[[Any], Any]:
            method = getattr(self._stub, name)

            def call(request: Any) -> Any:
                try:
                    return method(request, timeout=deadline)
                except grpc.RpcError as error:
                    if error.code() not in absent:
                        raise
                    raise Away(f"the proxy at {address}: {error.details()}") from None

            return call

    class Proxy(GrpcStorageProxy):
        def _setup(self) -> None:
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
            calls: Any = Calls(api_pb2_grpc.StorageServiceStub(self._channel))  # type: ignore[no-untyped-call]
            self._stub, self._cache = calls, GrpcClientCache(calls)

    host, _, port = address.rpartition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls it experimental
        return Proxy(host=host, port=int(port))


def _grpc() -> Any:
    try:
        import google.protobuf  # noqa: F401
        import grpc
    except ImportError:
        raise MissingExtra("grpcio", "grpc") from None
    return grpc
