"""Server reflection as v1 and v1alpha. The library has only v1alpha; the two differ only in the package name."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

OLD, NEW = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICE = f"{NEW}.ServerReflection"


def serve_reflection(server: grpc.aio.Server, services: list[str]) -> None:
    """Serve the descriptions of `services` and of reflection itself."""
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer([*services, SERVICE, reflection.SERVICE_NAME], pool=_Symbols())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    # Newer tools ask for v1 first, and older ones only for v1alpha. The same servicer answers both.
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"ServerReflectionInfo": method})])


class _Symbols:
    """The default descriptor pool, which here also finds the file of a method; protobuf's finds only services."""

    def __getattr__(self, name: str) -> Any:
        return getattr(descriptor_pool.Default(), name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """The file of a message, service or method. Raises KeyError."""
        pool = descriptor_pool.Default()
        try:
            return pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service = pool.FindServiceByName(symbol.rpartition(".")[0])
            return service.methods_by_name[symbol.rpartition(".")[2]].containing_service.file


def _describe_v1() -> None:
    """Add v1 to the descriptor pool, so that reflection can describe itself. Repeated calls have no effect."""
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", NEW
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(f".{OLD}.", f".{NEW}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(f".{OLD}.", f".{NEW}.")
        method.output_type = method.output_type.replace(f".{OLD}.", f".{NEW}.")
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
