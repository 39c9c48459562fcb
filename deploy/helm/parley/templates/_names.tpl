{{/* The name of all resources: that of the release. 46 characters leave room for suffixes. */}}
{{- define "parley.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that never change, by which Services, policies and the Deployment select pods of replicas. */}}
{{- define "parley.selector" -}}
app.kubernetes.io/name: parley
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{/* Labels by which policies select the pods of the migration, which get no calls. */}}
{{- define "parley.migrateSelector" -}}
app.kubernetes.io/name: parley
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: migrate
{{- end -}}

{{/* Labels of every resource, besides those above. */}}
{{- define "parley.releaseLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "parley.labels" -}}
{{ include "parley.selector" . }}
{{ include "parley.releaseLabels" . }}
{{- end -}}

{{- define "parley.migrateLabels" -}}
{{ include "parley.migrateSelector" . }}
{{ include "parley.releaseLabels" . }}
{{- end -}}

{{- define "parley.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}
{{ .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create -}}
{{ include "parley.name" . }}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{- define "parley.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The Secret of the server's certificate; empty without TLS. */}}
{{- define "parley.tlsSecret" -}}
{{- if .Values.tls.secretName -}}
{{ .Values.tls.secretName }}
{{- else if .Values.tls.certManager.enabled -}}
{{ include "parley.name" . }}-tls
{{- end -}}
{{- end -}}

{{- define "parley.appProtocol" -}}
{{- default (ternary "https" "kubernetes.io/h2c" (ne (include "parley.tlsSecret" .) "")) .Values.service.appProtocol -}}
{{- end -}}

{{/* "yes" if callers must identify themselves: as Parley decides it (docs/access.md). */}}
{{- define "parley.credentials" -}}
{{- if .Values.config.identity -}}
yes
{{- else -}}
{{- $found := false -}}
{{- range .Values.config.tenants -}}
{{- if or .api_keys_sha256 .certificates -}}{{- $found = true -}}{{- end -}}
{{- end -}}
{{- if $found -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* Seconds that a pod may take to end: until SIGTERM, the two parts of the drain, and 20 s for the last calls and the last texts. */}}
{{- define "parley.gracePeriod" -}}
{{- $server := default dict .Values.config.server -}}
{{- $pause := hasKey $server "drain_pause_s" | ternary $server.drain_pause_s 0.5 -}}
{{- $grace := hasKey $server "drain_grace_s" | ternary $server.drain_grace_s 30 -}}
{{- add .Values.preStopSleepSeconds (addf $pause $grace | ceil | int) 20 -}}
{{- end -}}
