"""Traces with OpenTelemetry. Loaded only where traces are wanted: the extra `otel` installs its packages."""
