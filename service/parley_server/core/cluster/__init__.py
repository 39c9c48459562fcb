"""What keeps replies right among replicas: leases, takeover, recovery, and replies of other replicas."""
