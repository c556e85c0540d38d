"""gRPC's standard health service beside the hub's own. Knows no institution.

It is there where ``grpcio-health-checking`` is (the extra ``metrics``), and missing elsewhere.
"""

from collections.abc import Awaitable, Callable

from fedkd.wire.channel import SERVICE, grpc

Farewell = Callable[[], Awaitable[None]]
"""Tells whoever asks that nobody is served any more."""


async def add_health(server: grpc.aio.Server) -> Farewell:
    """Has ``server`` answer ``Check`` for itself and for the hub's service.

    ``Watch`` is not offered: a stream that stays open would take an institution's place.
    """
    try:
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    except ImportError:
        return _nothing

    class Health(health.aio.HealthServicer):  # type: ignore[misc]  # the base is untyped
        async def Watch(self, request: object, context: grpc.aio.ServicerContext) -> None:  # noqa: N802
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "use Check")

    servicer = Health()
    await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    farewell: Farewell = servicer.enter_graceful_shutdown
    return farewell


async def _nothing() -> None:
    """Where there is no health service, nobody is told."""
