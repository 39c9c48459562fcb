"""Several server processes on one port of one machine: a supervisor and its workers.

The supervisor holds the port and serves the metrics of all workers. It loads neither gRPC nor the database.
"""

from parley_server.workers.supervisor import supervise

__all__ = ["supervise"]
