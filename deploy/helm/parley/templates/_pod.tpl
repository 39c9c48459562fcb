{{/* Identity and rights of every pod: the restricted profile of Pod Security. */}}
{{- define "parley.podSecurity" -}}
runAsNonRoot: true
{{- if not (kindIs "invalid" .Values.runAsUser) }}
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsUser }}
# The group of mounted volumes.
fsGroup: {{ .Values.runAsUser }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "parley.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* A variable from a Secret: a dict of name, secretName and secretKey. */}}
{{- define "parley.secretVariable" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: { name: {{ .secretName | quote }}, key: {{ .secretKey | quote }} }
{{- end -}}

{{/* A probe of a health service: a dict of the root context and the service. */}}
{{- define "parley.probe" -}}
{{- if include "parley.tlsSecret" .root -}}
tcpSocket: { port: grpc }
{{- else -}}
grpc: { port: 50051, service: {{ .service }} }
{{- end -}}
{{- end -}}

{{- define "parley.environment" -}}
- { name: PARLEY_CONFIG, value: /etc/parley/parley.toml }
- { name: PARLEY_LISTEN, value: "0.0.0.0:50051" }
- { name: PARLEY_METRICS_LISTEN, value: "0.0.0.0:9464" }
{{- if .Values.access.open }}
- { name: PARLEY_INSECURE, value: "1" }
{{- end }}
{{- if .Values.access.plaintext }}
- { name: PARLEY_PLAINTEXT, value: "1" }
{{- end }}
{{- if eq .Values.mode "standalone" }}
- { name: PARLEY_DATABASE_URL, value: "sqlite+aiosqlite:////data/parley.db" }
{{- else }}
- { name: PARLEY_WORKERS, value: {{ .Values.workers | quote }} }
{{ include "parley.secretVariable" (merge (dict "name" "PARLEY_DATABASE_URL") .Values.database) }}
{{- end }}
{{- if .Values.redis.secretName }}
{{ include "parley.secretVariable" (merge (dict "name" "PARLEY_REDIS_URL") .Values.redis) }}
{{- end }}
{{- if .Values.encryptionKeys.secretName }}
{{ include "parley.secretVariable" (merge (dict "name" "PARLEY_ENCRYPTION_KEYS") .Values.encryptionKeys) }}
{{- end }}
{{- range $name, $reference := .Values.secretVariables }}
{{ include "parley.secretVariable" (merge (dict "name" $name) $reference) }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
