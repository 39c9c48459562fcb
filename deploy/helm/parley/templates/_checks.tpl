{{/* Fails with all faults at once, if values that are valid by themselves do not fit together. */}}
{{- define "parley.checks" -}}
{{- $faults := list -}}
{{- $several := or (gt (int .Values.replicas) 1) (gt (int .Values.workers) 1) .Values.autoscaling.enabled -}}
{{- if eq .Values.mode "standalone" -}}
{{- if $several -}}
{{- $faults = append $faults "replicas, workers, autoscaling: a standalone Parley is one process, because only one can use a SQLite file: set mode to cluster" -}}
{{- end -}}
{{- if or .Values.database.secretName .Values.redis.secretName -}}
{{- $faults = append $faults "database, redis: a standalone Parley uses neither PostgreSQL nor Redis: set mode to cluster, or remove them" -}}
{{- end -}}
{{- else -}}
{{- if not .Values.database.secretName -}}
{{- $faults = append $faults "database.secretName: a cluster needs PostgreSQL: name a Secret with its URL" -}}
{{- end -}}
{{- if and $several (not .Values.redis.secretName) -}}
{{- $faults = append $faults "redis.secretName: several replicas or workers need Redis: name a Secret with its URL" -}}
{{- end -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- $faults = append $faults "autoscaling.minReplicas: must not be above maxReplicas" -}}
{{- end -}}
{{- $server := default dict .Values.config.server -}}
{{- $most := hasKey $server "max_replies" | ternary $server.max_replies 4000 | int | mul .Values.workers -}}
{{- if ge (int .Values.autoscaling.repliesPerPod) (int $most) -}}
{{- $faults = append $faults (printf "autoscaling.repliesPerPod: a pod refuses replies from %d on (config.server.max_replies and workers), so the mean never gets there" $most) -}}
{{- end -}}
{{- end -}}
{{- $tls := include "parley.tlsSecret" . -}}
{{- if include "parley.credentials" . -}}
{{- if and (not $tls) (not .Values.access.plaintext) -}}
{{- $faults = append $faults "access.plaintext: with credentials, callers need TLS: set tls, or confirm with access.plaintext that a proxy or a mesh encrypts" -}}
{{- end -}}
{{- if .Values.access.open -}}
{{- $faults = append $faults "access.open: has no effect, since config has credentials: remove it" -}}
{{- end -}}
{{- else if not .Values.access.open -}}
{{- $faults = append $faults "access.open: config has no credentials: add config.tenants or config.identity, or confirm with access.open that every caller whom the network policy admits may read all conversations" -}}
{{- end -}}
{{- if and .Values.tls.clientCertificates (not $tls) -}}
{{- $faults = append $faults "tls.clientCertificates: needs tls.secretName or tls.certManager" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- $faults = append $faults "tls.certManager.issuerRef.name: name an Issuer or ClusterIssuer" -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "the values have %d fault(s):\n  %s" (len $faults) (join "\n  " $faults)) -}}
{{- end -}}
{{- end -}}
