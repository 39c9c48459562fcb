"""A gRPC server over HTTP/2 for one event loop: what a token costs on its way out is decided here (docs/adr/0009)."""

from parley_server.rpc.http2.lifetime import Limits
from parley_server.rpc.http2.server import Http2Server

__all__ = ["Http2Server", "Limits"]
