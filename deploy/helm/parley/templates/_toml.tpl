{{/*
A map as TOML: scalars first, then each map as a table of its own. Call it with a dict: `table` is the map, `path` the name of its table,
empty at the top. Null values are left out. JSON's strings and numbers are valid TOML.
*/}}
{{- define "parley.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "parley.tomlKey" $key }} = {{ include "parley.tomlValue" (dict "key" $key "value" $value) }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value -}}
{{- $name := include "parley.tomlKey" $key -}}
{{- if $path -}}{{- $name = printf "%s.%s" $path $name -}}{{- end }}

[{{ $name }}]
{{- include "parley.toml" (dict "table" $value "path" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "parley.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{/* YAML has no dates here, and TOML's have no quotes: `retires` of a model is the only one. */}}
{{- define "parley.tomlValue" -}}
{{- if kindIs "map" .value -}}
{{- $pairs := list -}}
{{- range $key, $value := .value -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $text := include "parley.tomlValue" (dict "key" $key "value" $value) -}}
{{- $pairs = append $pairs (printf "%s = %s" (include "parley.tomlKey" $key) $text) -}}
{{- end -}}
{{- end -}}
{ {{- join ", " $pairs -}} }
{{- else if kindIs "slice" .value -}}
{{- $items := list -}}
{{- range .value -}}
{{- $items = append $items (include "parley.tomlValue" (dict "key" "" "value" .)) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- else if and (eq .key "retires") (kindIs "string" .value) -}}
{{ .value }}
{{- else -}}
{{ toJson .value }}
{{- end -}}
{{- end -}}

{{/* What of `config` takes effect after a restart alone: the rest is applied by running pods. */}}
{{- define "parley.configurationForRestart" -}}
{{- $server := omit (default dict .Values.config.server) "default_model" "summary_model" -}}
{{- omit .Values.config "providers" "models" "tenants" "identity" "server" | toJson -}}
{{- toJson $server -}}
{{- end -}}

{{/* The configuration file: `config` of the values, and the paths of mounted certificates. */}}
{{- define "parley.configuration" -}}
{{- $config := deepCopy .Values.config -}}
{{- if include "parley.tlsSecret" . -}}
{{- $tls := dict "certificate" "/etc/parley-tls/tls.crt" "key" "/etc/parley-tls/tls.key" -}}
{{- if .Values.tls.clientCertificates -}}
{{- $_ := set $tls "client_ca" (printf "/etc/parley-client-ca/%s" .Values.tls.clientCa.secretKey) -}}
{{- end -}}
{{- $_ := set $config "tls" $tls -}}
{{- end -}}
{{- include "parley.toml" (dict "table" $config "path" "") | trim -}}
{{- end -}}
