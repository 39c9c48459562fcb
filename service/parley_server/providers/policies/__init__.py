"""Rules for asking providers: time limits, retries, circuit breakers and failover."""
