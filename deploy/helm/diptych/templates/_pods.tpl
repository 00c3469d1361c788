{{/* Address to listen on: every one of the pod's. */}}
{{- define "diptych.any" -}}
{{- if .Values.ipv6 }}[::]{{ else }}0.0.0.0{{ end -}}
{{- end -}}

{{/* Pod security context. Takes (root, own context). */}}
{{- define "diptych.podSecurity" -}}
{{- $base := dict "runAsNonRoot" true "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001 "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- mergeOverwrite $base (index . 1 | deepCopy) | toYaml -}}
{{- end -}}

{{/* Container security context. Takes (own context, capabilities to add). */}}
{{- define "diptych.containerSecurity" -}}
{{- $capabilities := dict "drop" (list "ALL") -}}
{{- with index . 1 }}{{ $_ := set $capabilities "add" . }}{{ end -}}
{{- $base := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" $capabilities -}}
{{- mergeOverwrite $base (index . 0 | deepCopy) | toYaml -}}
{{- end -}}

{{/* Environment that finds the object store. */}}
{{- define "diptych.storageEnv" -}}
{{- $s := .Values.storage -}}
{{- if eq $s.credentials "secret" }}
{{- range $name, $key := $s.secretKeys }}
- name: {{ $name }}
  valueFrom: { secretKeyRef: { name: {{ $s.existingSecret }}, key: {{ $key | quote }} } }
{{- end }}
{{- end }}
{{- with $s.endpoint }}
- { name: AWS_ENDPOINT_URL, value: {{ . | quote }} }
{{- end }}
{{- with $s.region }}
- { name: AWS_REGION, value: {{ . | quote }} }
{{- end }}
{{- if $s.allowHttp }}
- { name: AWS_ALLOW_HTTP, value: "true" }
{{- end }}
{{- end -}}

{{/* Settings by flag names as environment variables. */}}
{{- define "diptych.settings" -}}
{{- range $name, $value := . }}
DIPTYCH_{{ $name | upper | replace "-" "_" }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Tolerations. Takes (own, seconds on an unreachable node, GPU resource or ""). */}}
{{- define "diptych.tolerations" -}}
{{- range list "not-ready" "unreachable" }}
- key: node.kubernetes.io/{{ . }}
  operator: Exists
  effect: NoExecute
  tolerationSeconds: {{ index $ 1 }}
{{- end }}
{{- with index . 2 }}
- { key: {{ . }}, operator: Exists, effect: NoSchedule }
{{- end }}
{{- with index . 0 }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What coordinator and workers have alike in their pods' specs. Takes (root, values, account). */}}
{{- define "diptych.podCommon" -}}
{{- $root := index . 0 -}}{{- $p := index . 1 -}}
serviceAccountName: {{ index . 2 }}
automountServiceAccountToken: {{ eq $root.Values.storage.credentials "workloadIdentity" }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $p.terminationGracePeriodSeconds }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $p.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $p.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $p.initContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A short-lived pod with the command line. Takes (root, extra keys of the container as YAML). */}}
{{- define "diptych.clientContainer" -}}
{{- $root := index . 0 -}}
image: {{ include "diptych.image" (list $root $root.Values.client.image "") }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
env:
  - { name: DIPTYCH_SERVER, value: {{ include "diptych.server" $root | quote }} }
  - { name: HOME, value: /tmp }
resources:
  {{- toYaml $root.Values.client.resources | nindent 2 }}
securityContext:
  {{- include "diptych.containerSecurity" (list dict nil) | nindent 2 }}
{{- end -}}

{{- define "diptych.clientPod" -}}
serviceAccountName: {{ include "diptych.fullname" . }}-client
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Never
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "diptych.podSecurity" (list . dict) | nindent 2 }}
{{- end -}}
