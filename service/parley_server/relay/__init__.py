"""Connects replicas through Redis: publishes the logs of running replies and follows those of other replicas."""
