"""The baseline, which has only the cost of gRPC: a grpc.aio server that generates tokens and writes a message for each.

It implements only StreamReply of the contract, without provider, log and storage.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Any

import grpc
import uvloop
from parley.v1 import chat_pb2, resources_pb2

from benchmarks.tokens import now_us, shape, token

OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 50_000),
]


async def stream_reply(request: chat_pb2.ReplyRequest, context: Any) -> None:
    """Write `accepted`, one message per token at the pace of the model's name, and `finished`."""
    tokens, pace_ms, first_ms = shape(request.model)
    chunk = chat_pb2.TokenChunk
    accepted = chat_pb2.Accepted(conversation_id="bare", message_id="bare", model=request.model)
    await context.write(chunk(reply_id="bare", accepted=accepted))
    if first_ms:
        await asyncio.sleep(first_ms / 1000)
    loop = asyncio.get_running_loop()
    due = loop.time()
    for number in range(tokens):
        stamp = now_us() if pace_ms else 0
        await context.write(chunk(sequence=number + 1, text=token(number, stamp)))
        due += pace_ms / 1000
        if pace_ms and number + 1 < tokens:
            await asyncio.sleep(due - loop.time())
    finished = chat_pb2.Finished(reason=resources_pb2.FINISH_REASON_STOP, model=request.model)
    await context.write(chunk(sequence=tokens + 1, finished=finished))


async def serve(listen: str) -> None:
    """Serve until SIGTERM."""
    server = grpc.aio.server(options=OPTIONS)
    method = grpc.unary_stream_rpc_method_handler(
        stream_reply,
        request_deserializer=chat_pb2.ReplyRequest.FromString,
        response_serializer=chat_pb2.TokenChunk.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("parley.v1.Chat", {"StreamReply": method}),))
    server.add_insecure_port(listen)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    uvloop.run(serve(parser.parse_args().listen))
