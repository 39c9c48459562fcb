"""Makes the logs of running replies durable, and live between replicas."""
