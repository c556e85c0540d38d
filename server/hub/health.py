"""gRPC's standard health checking service, on the same server as the hub's own.

Its calls have limits of their own. A handler of gRPC's for one request waits for that request as
long as the peer likes; so `Check` is registered as a stream, reads its request itself, and gives up
after `CHECK_SECONDS`.

It needs ``grpcio-health-checking`` (the extra ``metrics``) and is left out without it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from fedkd.server.hub.call_limits import CallLimit, peer_of
from fedkd.wire.grpc_channels import SERVICE, grpc

HEALTH = "grpc.health.v1.Health"
CHECK_SECONDS = 2.0
"""Timeout of the request of a `Check`."""
MAX_CHECKS_OF_CERTIFICATE = 2
"""Calls of `Check` under way, of one client certificate."""
MAX_CHECKS_OF_HOST = 8
"""The same of one host without certificates."""
MAX_CHECKS = 16
"""The same of all peers. An institution's session takes no place of these."""
MAX_REQUEST_BYTES = 1024

ShutdownHook = Callable[[], None]
"""Sets the status of all services to NOT_SERVING."""


def add_health(server: grpc.aio.Server) -> ShutdownHook:
    """Adds ``Check`` to ``server``, for the server as a whole and for the hub's service.

    ``Watch`` is not offered: its streams would stay open.
    """
    try:
        from grpc_health.v1 import health_pb2
    except ImportError:
        return _no_health_service

    service = _HealthService(health_pb2)
    # As streams: what gRPC would read before a handler is called has no deadline.
    methods = {
        name: grpc.stream_stream_rpc_method_handler(handler)
        for name, handler in (("Check", service.check), ("Watch", _refuse_watch))
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(HEALTH, methods),))
    return service.shut_down


class _HealthService:
    """Answers health checks, with the messages of the module ``health_pb2``."""

    def __init__(self, health_pb2: Any) -> None:
        self._messages = health_pb2
        self._status = health_pb2.HealthCheckResponse.SERVING
        self._limit = CallLimit(MAX_CHECKS_OF_CERTIFICATE, MAX_CHECKS_OF_HOST, MAX_CHECKS)

    def shut_down(self) -> None:
        self._status = self._messages.HealthCheckResponse.NOT_SERVING

    async def check(self, _: object, context: grpc.aio.ServicerContext) -> None:
        """Serves one `Check`, from its first byte to its response."""
        peer = peer_of(context)
        if most := self._limit.exceeded(peer):
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {most} health checks at a time"
            )
        with self._limit.counted(peer):
            if await self._service_asked_for(context) not in ("", SERVICE):
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
            response = self._messages.HealthCheckResponse(status=self._status)
            await context.write(response.SerializeToString())

    async def _service_asked_for(self, context: grpc.aio.ServicerContext) -> str:
        """The service that the request names; aborts the call where no valid request comes."""
        try:
            data = await asyncio.wait_for(context.read(), CHECK_SECONDS)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no request came")
        try:
            if data is grpc.aio.EOF or len(data) > MAX_REQUEST_BYTES:
                raise ValueError("no request, or a large one")
            return str(self._messages.HealthCheckRequest.FromString(data).service)
        except Exception:  # protobuf's DecodeError is not a ValueError in every version
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a HealthCheckRequest")
        raise AssertionError("abort raises")


async def _refuse_watch(_: object, context: grpc.aio.ServicerContext) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "use Check")


def _no_health_service() -> None:
    """Does nothing: there is no health service."""
