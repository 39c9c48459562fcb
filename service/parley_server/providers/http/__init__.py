"""HTTP to model vendors: transport, connections, encodings, server-sent events."""
