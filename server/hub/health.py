"""gRPC's standard health checking service, on the same server as the hub's own.

It needs ``grpcio-health-checking`` (the extra ``metrics``) and is left out without it.
"""

from collections.abc import Awaitable, Callable

from fedkd.wire.grpc_channels import SERVICE, grpc

ShutdownHook = Callable[[], Awaitable[None]]
"""Sets the status of all services to NOT_SERVING."""


async def add_health(server: grpc.aio.Server) -> ShutdownHook:
    """Adds ``Check`` to ``server``, for the server as a whole and for the hub's service.

    ``Watch`` is not offered: its open streams would take the place of institutions.
    """
    try:
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    except ImportError:
        return _no_health_service

    class Health(health.aio.HealthServicer):  # type: ignore[misc]  # the base is untyped
        async def Watch(self, request: object, context: grpc.aio.ServicerContext) -> None:  # noqa: N802
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "use Check")

    servicer = Health()
    await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    shutdown: ShutdownHook = servicer.enter_graceful_shutdown
    return shutdown


async def _no_health_service() -> None:
    """Does nothing: there is no health service."""
