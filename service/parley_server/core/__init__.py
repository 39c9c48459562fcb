"""What a chat is and how replies run. No I/O, no gRPC, no SQL."""
