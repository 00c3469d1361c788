{{- define "diptych.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "diptych.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "diptych.name" .) .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "diptych.name" .) -}}
{{- end -}}
{{- end -}}

{{- define "diptych.coordinator" -}}{{ include "diptych.fullname" . }}-coordinator{{- end -}}

{{/* Name of a pool's objects. Takes (root, pool name). */}}
{{- define "diptych.pool" -}}
{{- $root := index . 0 -}}{{- $pool := index . 1 -}}
{{- include "diptych.fullname" $root }}-worker{{ if ne $pool "default" }}-{{ $pool }}{{ end -}}
{{- end -}}

{{- define "diptych.server" -}}
http://{{ include "diptych.coordinator" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:{{ .Values.coordinator.service.port }}
{{- end -}}

{{/* Labels that select pods. Takes (root, component). */}}
{{- define "diptych.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "diptych.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of a pod: none that changes with the chart alone, or an upgrade would restart what it does not change. */}}
{{- define "diptych.podLabels" -}}
{{ include "diptych.selector" . }}
app.kubernetes.io/part-of: diptych
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* All labels of an object. Takes (root, component). */}}
{{- define "diptych.labels" -}}
{{- $root := index . 0 -}}
{{ include "diptych.selector" . }}
app.kubernetes.io/part-of: diptych
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name, labels and annotations of an object. Takes (root, component, name, own annotations, own labels where there are). */}}
{{- define "diptych.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "diptych.labels" (list $root (index . 1)) | nindent 2 }}
  {{- if gt (len .) 4 }}
  {{- with index . 4 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
{{- $annotations := merge (dict) (index . 3) $root.Values.commonAnnotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An image. Takes (root, image, suffix of the tag). */}}
{{- define "diptych.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ default $root.Chart.AppVersion $image.tag }}{{ index . 2 }}{{- end -}}
{{- end -}}

{{- define "diptych.account" -}}
{{- $root := index . 0 -}}{{- $what := index . 1 -}}
{{- $account := (index $root.Values $what).serviceAccount -}}
{{- if $account.name -}}{{ $account.name }}
{{- else if $account.create -}}{{ include "diptych.fullname" $root }}-{{ trimSuffix "s" $what }}
{{- else -}}default{{- end -}}
{{- end -}}
