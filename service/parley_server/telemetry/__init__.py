"""What the server tells its operators: log lines and Prometheus metrics. Never a prompt, an answer or a key."""
