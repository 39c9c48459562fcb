"""Callers stream through Envoy while parts of a cluster are killed, paused, cut off and filled up.

`words` defines prompts and answers, `providers` the vendors' servers, `stand` the cluster, `callers` the requests and
what they receive, `mishaps` the faults of the cluster, `evidence` the data collected at the end, and `verdict` the
checks of Parley's promises on these data.
"""
