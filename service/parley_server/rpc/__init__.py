"""The gRPC interface. The only package that imports grpc and protobuf."""
