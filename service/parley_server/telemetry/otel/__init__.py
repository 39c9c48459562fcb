"""Traces with OpenTelemetry. Loaded only where traces are turned on: the extra `otel` installs its packages."""
