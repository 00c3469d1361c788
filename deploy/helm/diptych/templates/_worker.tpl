{{/* Environment of a pool's workers that needs no pod. Takes (root, pool name). */}}
{{- define "diptych.workerConfig" -}}
{{- $root := index . 0 -}}
{{- $p := include "diptych.poolValues" . | fromYaml -}}
DIPTYCH_COORDINATOR: {{ include "diptych.server" $root | quote }}
DIPTYCH_DATA_DIR: /var/lib/diptych
{{- if $p.gpu.count }}
DIPTYCH_GPUS: {{ until (int $p.gpu.count) | join "," | quote }}
{{- else }}
DIPTYCH_GPUS: none
DIPTYCH_DEVICES: {{ $p.devices | int | quote }}
{{- end }}
{{- if $p.threadsPerDevice }}
DIPTYCH_THREADS_PER_DEVICE: {{ $p.threadsPerDevice | int | quote }}
{{- end }}
DIPTYCH_GRACE: "{{ int $p.graceSeconds }}s"
DIPTYCH_PEER_LISTEN: "{{ include "diptych.any" $root }}:{{ int $p.peerPort }}"
DIPTYCH_LOG_FORMAT: json
DIPTYCH_LOG: {{ $p.log | quote }}
{{- if $root.Values.metrics.enabled }}
DIPTYCH_METRICS_LISTEN: "{{ include "diptych.any" $root }}:{{ $root.Values.metrics.port }}"
{{- end }}
{{- include "diptych.settings" $p.settings }}
{{- range $name, $value := $p.nccl }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "diptych.workerSelector" -}}
{{ include "diptych.selector" (list (index . 0) "worker") }}
diptych/pool: {{ index . 1 }}
{{- end -}}

{{/* Labels of the pool's workload: its name, and the queue that admits it. Takes (pool name, pool values). */}}
{{- define "diptych.queueLabels" -}}
diptych/pool: {{ index . 0 }}
{{- with (index . 1).kueue.queueName }}
kueue.x-k8s.io/queue-name: {{ . }}
{{- end }}
{{- end -}}

{{/* Container of a worker. Takes (root, pool name). */}}
{{- define "diptych.workerContainer" -}}
{{- $root := index . 0 -}}{{- $pool := index . 1 -}}
{{- $p := include "diptych.poolValues" . | fromYaml -}}
{{- $resources := deepCopy $p.resources -}}
{{- $devices := dict -}}
{{- if $p.gpu.count }}{{ $_ := set $devices $p.gpu.resource ($p.gpu.count | int) }}{{ end -}}
{{- if $p.rdma.resource }}{{ $_ := set $devices $p.rdma.resource ($p.rdma.count | int) }}{{ end -}}
{{- $_ := set $resources "limits" (merge $devices ($resources.limits | default dict)) -}}
{{- $_ := set $resources "requests" (merge (deepCopy $devices) (deepCopy ($resources.requests | default dict))) -}}
name: worker
image: {{ include "diptych.image" (list $root $p.image (ternary $p.gpu.imageSuffix "" (gt (int $p.gpu.count) 0))) }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
ports:
  - { name: peers, containerPort: {{ int $p.peerPort }} }
  {{- if $root.Values.metrics.enabled }}
  - { name: metrics, containerPort: {{ $root.Values.metrics.port }} }
  {{- end }}
envFrom:
  - configMapRef: { name: {{ include "diptych.pool" . }} }
  {{- with $p.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  - { name: HOME, value: /tmp }
  - name: DIPTYCH_ID
    valueFrom: { fieldRef: { fieldPath: metadata.name } }
  {{- if eq $p.dataAddress "podIP" }}
  - name: DIPTYCH_DATA_ADDRESS
    valueFrom: { fieldRef: { fieldPath: status.podIP } }
  {{- else if eq $p.kind "JobSet" }}
  - name: JOB_INDEX
    valueFrom: { fieldRef: { fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']" } }
  - name: DIPTYCH_DATA_ADDRESS
    value: {{ include "diptych.pool" . }}-worker-0-$(JOB_INDEX).{{ include "diptych.pool" . }}.{{ $root.Release.Namespace }}.svc.{{ $root.Values.clusterDomain }}
  {{- else }}
  - name: DIPTYCH_DATA_ADDRESS
    value: $(DIPTYCH_ID).{{ include "diptych.pool" . }}.{{ $root.Release.Namespace }}.svc.{{ $root.Values.clusterDomain }}
  {{- end }}
  {{- include "diptych.storageEnv" $root | nindent 2 }}
  {{- with $p.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
# Liveness asks only whether the agent answers: without a coordinator it must stay, as its ranks go on. Readiness is
# registration, so that a rolling update takes the next worker when this one is back.
{{- if $root.Values.metrics.enabled }}
startupProbe:
  httpGet: { path: /healthz, port: metrics }
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet: { path: /healthz, port: metrics }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: metrics }
  periodSeconds: 5
  failureThreshold: 3
{{- else }}
startupProbe:
  tcpSocket: { port: peers }
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  tcpSocket: { port: peers }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  tcpSocket: { port: peers }
  periodSeconds: 5
  failureThreshold: 3
{{- end }}
resources:
  {{- toYaml $resources | nindent 2 }}
securityContext:
  {{- include "diptych.containerSecurity" (list $p.securityContext (ternary (list "IPC_LOCK") nil (ne $p.rdma.resource ""))) | nindent 2 }}
volumeMounts:
  - { name: data, mountPath: /var/lib/diptych }
  - { name: tmp, mountPath: /tmp }
  - { name: shm, mountPath: /dev/shm }
  {{- with $p.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Template of a worker's pod. Takes (root, pool name). */}}
{{- define "diptych.workerPod" -}}
{{- $root := index . 0 -}}{{- $pool := index . 1 -}}
{{- $p := include "diptych.poolValues" . | fromYaml -}}
metadata:
  labels:
    {{- include "diptych.podLabels" (list $root "worker") | nindent 4 }}
    diptych/pool: {{ $pool }}
    {{- with $p.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "diptych.workerConfig" . | sha256sum }}
    {{- if $p.volcano.enabled }}
    scheduling.k8s.io/group-name: {{ include "diptych.pool" . }}
    {{- end }}
    {{- with $p.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "diptych.podCommon" (list $root $p (include "diptych.account" (list $root "workers"))) | nindent 2 }}
  {{- if eq $p.kind "JobSet" }}
  restartPolicy: OnFailure
  {{- end }}
  {{- with (ternary "volcano" $p.schedulerName $p.volcano.enabled) }}
  schedulerName: {{ . }}
  {{- end }}
  {{- with $p.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- if $p.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  tolerations:
    {{- include "diptych.tolerations" (list $p.tolerations $p.unreachableSeconds (ternary $p.gpu.resource "" (gt (int $p.gpu.count) 0))) | nindent 4 }}
  {{- if $p.affinity }}
  affinity:
    {{- toYaml $p.affinity | nindent 4 }}
  {{- else if $p.rack.topologyKey }}
  affinity:
    podAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: {{ $p.rack.topologyKey }}
            labelSelector:
              matchLabels:
                {{- include "diptych.workerSelector" . | nindent 16 }}
  {{- end }}
  {{- with $p.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    {{- $own := . }}
    {{- if not .labelSelector }}
    {{- $own = merge (dict "labelSelector" (dict "matchLabels" (include "diptych.workerSelector" (list $root $pool) | fromYaml))) . }}
    {{- end }}
    - {{- toYaml $own | nindent 6 }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- $context := deepCopy $p.podSecurityContext }}
    {{- if and $p.dataPorts (not $p.hostNetwork) }}
    {{- $range := printf "%d %d" (int $p.dataPorts.from) (int $p.dataPorts.to) }}
    {{- $_ := set $context "sysctls" (append ($context.sysctls | default list) (dict "name" "net.ipv4.ip_local_port_range" "value" $range)) }}
    {{- end }}
    {{- include "diptych.podSecurity" (list $root $context) | nindent 4 }}
  containers:
    - {{- include "diptych.workerContainer" . | nindent 6 }}
    {{- with $p.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: data
      emptyDir: { sizeLimit: {{ $p.dataSize }} }
    - name: tmp
      emptyDir: { sizeLimit: 1Gi }
    - name: shm
      emptyDir: { medium: Memory, sizeLimit: {{ $p.shmSize }} }
    {{- with $p.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
