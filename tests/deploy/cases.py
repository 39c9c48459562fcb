"""Values of the Helm chart, each with the parts that it turns on."""

from __future__ import annotations

from typing import Any

KEY = "6e9dd3cd2206032eb8c2449f9b55848c5ae7f53fc695f9a70538249091777718"
OPEN: dict[str, Any] = {"access": {"open": True}}
TENANT: dict[str, Any] = {"config": {"tenants": {"shop": {"api_keys_sha256": [KEY]}}}, "access": {"plaintext": True}}
CLUSTER: dict[str, Any] = {
    "mode": "cluster",
    "replicas": 3,
    "access": {"plaintext": True},
    "database": {"secretName": "parley"},
    "redis": {"secretName": "parley"},
    "config": {"tenants": {"shop": {"api_keys_sha256": [KEY], "limits": {"messages_per_minute": 10}}}},
}
WHOLE: dict[str, Any] = CLUSTER | {
    "workers": 2,
    "image": {"repository": "registry.example/parley", "digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
    "access": {},
    "config": {
        "log_level": "info",
        "server": {"default_model": "fast", "drain_pause_s": 2.5, "drain_grace_s": 30},
        "retention": {"conversations_days": 30},
        "providers": {
            "openai": {"kind": "openai", "api_key": "env:OPENAI_API_KEY", "timeouts": {"first_token": 20}},
            "local": {"kind": "openai", "base_url": "http://models.example:8080/v1"},
        },
        "models": {
            "fast": {"provider": "openai", "name": "gpt-5.6-luna", "fallback": ["own"]},
            "own": {
                "provider": "local",
                "name": "llama",
                "retires": "2027-03-01",
                "prices": {"prompt": 0.25, "completion": 2},
            },
        },
        "tenants": {"shop": {"certificates": ["dns:shop.internal"]}, "*": {"quotas": {"tokens_per_day": 200000}}},
        "identity": {
            "corp": {
                "issuer": "https://id.example.com",
                "audience": ["parley"],
                "jwks": "https://id.example.com/certs",
                "tenant_claim": "org",
            }
        },
    },
    "encryptionKeys": {"secretName": "parley-encryption"},
    "secretVariables": {"OPENAI_API_KEY": {"secretName": "parley", "secretKey": "OPENAI_API_KEY"}},
    "secretFiles": {"authorities": "parley-authorities"},
    "extraEnv": [{"name": "PGSSLROOTCERT", "value": "/etc/parley-secrets/authorities/postgres.crt"}],
    "migrate": {"secretName": "parley-owner", "podLabels": {"sidecar": "no"}, "podAnnotations": {"inject": "disabled"}},
    "service": {"type": "LoadBalancer", "annotations": {"example.com/scheme": "internal"}},
    "tls": {
        "clientCertificates": True,
        "clientCa": {"secretName": "clients"},
        "certManager": {
            "enabled": True,
            "issuerRef": {"name": "internal", "kind": "ClusterIssuer"},
            "dnsNames": ["parley.example.com"],
        },
    },
    "autoscaling": {"enabled": True, "repliesPerPod": 400},
    "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"},
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}],
        "egress": {"database": {"port": 6432, "to": [{"ipBlock": {"cidr": "10.0.0.0/16"}}]}},
        "extraIngress": [{"ports": [{"port": 15008}]}],
        "extraEgress": [{"ports": [{"port": 4317}]}],
    },
    "monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {
            "enabled": True,
            "runbooks": "https://git.example/parley/",
            "labels": {"release": "prometheus"},
        },
    },
    "serviceAccount": {"annotations": {"example.com/role": "parley"}},
    "podLabels": {"mesh": "on"},
    "podAnnotations": {"mesh": "on"},
    "preStopSleepSeconds": 10,
    "priorityClassName": "service",
    "nodeSelector": {"pool": "general"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "arch", "operator": "In", "values": ["amd64"]}]}]
            }
        }
    },
}
CASES: dict[str, dict[str, Any]] = {
    "standalone": OPEN,
    "standalone with credentials": TENANT,
    "standalone with TLS of an existing Secret": TENANT | {"access": {}, "tls": {"secretName": "parley-tls"}},
    "standalone on an existing volume": OPEN | {"persistence": {"existingClaim": "conversations"}},
    "standalone with storage of its own": OPEN
    | {"persistence": {"storageClassName": "", "accessModes": ["ReadWriteOncePod"], "size": "1.5Ti"}},
    "cluster": CLUSTER,
    "cluster of one replica without Redis": CLUSTER | {"replicas": 1, "redis": {}},
    "cluster with everything": WHOLE,
    "cluster with as little as possible": CLUSTER
    | {
        "migrate": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "disruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False},
        "runAsUser": None,
        "resources": None,
        "fullnameOverride": "chat-engine",
    },
}
"""Each is rendered and checked."""

WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "standalone with replicas": (
        OPEN | {"replicas": 2},
        ["replicas, workers, autoscaling: a standalone Parley is one"],
    ),
    "standalone with workers": (OPEN | {"workers": 2}, ["replicas, workers, autoscaling: a standalone Parley is one"]),
    "standalone with autoscaling": (OPEN | {"autoscaling": {"enabled": True}}, ["replicas, workers, autoscaling: a"]),
    "standalone with PostgreSQL": (
        OPEN | {"database": {"secretName": "parley"}},
        ["uses neither PostgreSQL nor Redis"],
    ),
    "cluster without database": (CLUSTER | {"database": {}}, ["database.secretName: a cluster needs PostgreSQL"]),
    "cluster without Redis": (CLUSTER | {"redis": {}}, ["redis.secretName: several replicas or workers need Redis"]),
    "autoscaling upside down": (
        CLUSTER | {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}},
        ["autoscaling.minReplicas: must not be above maxReplicas"],
    ),
    "autoscaling that never begins": (
        CLUSTER | {"autoscaling": {"enabled": True, "repliesPerPod": 4000}},
        ["autoscaling.repliesPerPod: a pod refuses replies from 4000 on"],
    ),
    "no credentials": ({}, ["access.open: config has no credentials"]),
    "a tenant without credentials": ({"config": {"tenants": {"shop": {}}}}, ["access.open: config has no credentials"]),
    "credentials in clear": (TENANT | {"access": {}}, ["access.plaintext: with credentials, callers need TLS"]),
    "credentials of an open server": (
        TENANT | {"access": {"open": True, "plaintext": True}},
        ["access.open: has no effect, since config has credentials"],
    ),
    "client certificates without TLS": (
        TENANT | {"tls": {"clientCertificates": True}},
        ["tls.clientCertificates: needs tls.secretName or tls.certManager"],
    ),
    "a certificate without an issuer": (
        TENANT | {"tls": {"certManager": {"enabled": True}}},
        ["tls.certManager.issuerRef.name: name an Issuer"],
    ),
    "several faults": (
        {"mode": "cluster", "replicas": 2},
        ["the values have 3 fault(s)", "database.secretName: ", "redis.secretName: ", "access.open: "],
    ),
    # By the schema.
    "an unknown value": (OPEN | {"replicaCount": 2}, ["replicaCount"]),
    "an unknown value below": (OPEN | {"networkPolicy": {"client": []}}, ["client"]),
    "an address in the configuration": (OPEN | {"config": {"listen": "0.0.0.0:1"}}, ["listen"]),
    "a secret in the configuration": (OPEN | {"config": {"database_url": "postgresql://"}}, ["database_url"]),
    "Parley's variables": (OPEN | {"extraEnv": [{"name": "PARLEY_LISTEN", "value": "x"}]}, ["extraEnv"]),
    "a fraction of a replica": (CLUSTER | {"replicas": 1.5}, ["replicas"]),
    "an unknown mode": (OPEN | {"mode": "ha"}, ["mode"]),
    "a volume of many nodes": (OPEN | {"persistence": {"accessModes": ["ReadWriteMany"]}}, ["accessModes"]),
    "a drain as text": (OPEN | {"config": {"server": {"drain_grace_s": "60s"}}}, ["drain_grace_s"]),
}
"""Values that Helm refuses, with parts of the reason."""
