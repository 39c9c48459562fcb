"""HTTP to model vendors: transport, connections, content encodings, server-sent events."""
