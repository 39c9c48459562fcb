"""Several servers on one port of one machine: a supervisor, and a process for each worker.

The supervisor holds the port and serves nothing else but the metrics of all. It knows neither gRPC nor the database.
"""

from parley_server.workers.supervisor import supervise

__all__ = ["supervise"]
