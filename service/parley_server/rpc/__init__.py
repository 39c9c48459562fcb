"""The gRPC edge: the only user of grpc and protobuf."""
