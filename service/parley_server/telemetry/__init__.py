"""Log lines and Prometheus metrics. They never contain a prompt, an answer or a key."""
