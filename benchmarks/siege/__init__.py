"""Callers stream through Envoy while parts of a cluster are killed, paused, cut off and filled up.

`words` has the form of prompts and answers, `providers` the vendors' servers, `stand` the cluster, `callers` what is
asked and received, `mishaps` what happens to the cluster, `evidence` what is found at the end, and `verdict` whether
that keeps Parley's promises.
"""
