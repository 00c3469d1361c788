{{/* Everything that is unsafe or cannot work, at once. Each line: the value, what is wrong with it, what to do. */}}
{{- define "diptych.refusals" -}}
{{- $v := .Values -}}
{{- $c := $v.coordinator -}}
{{- if not $v.insecure }}
- insecure is false, but this version has neither TLS nor tokens: whoever reaches the coordinator's port may run jobs. Where you trust the network that reaches it, set insecure: true
{{- end }}
{{- include "diptych.refusals.coordinator" . -}}
{{- range $name, $_ := include "diptych.pools" . | fromYaml }}
{{- include "diptych.refusals.pool" (list $ $name) -}}
{{- end -}}
{{- include "diptych.refusals.surroundings" . -}}
{{- end -}}

{{- define "diptych.refusals.coordinator" -}}
{{- $v := .Values -}}
{{- $c := $v.coordinator -}}
{{- if gt (int $c.replicas) 1 }}
- coordinator.replicas is {{ $c.replicas }}, but its store is a database on one volume: a second coordinator cannot share it. Set coordinator.replicas: 1; while it is away, training goes on
{{- end }}
{{- if and (eq $c.workload "Deployment") (ne $c.updateStrategy.type "Recreate") }}
- coordinator.updateStrategy.type is {{ $c.updateStrategy.type }} for a Deployment: the new pod would wait for the volume that the old one holds. Set coordinator.updateStrategy.type: Recreate, or coordinator.workload: StatefulSet
{{- end }}
{{- if and (eq $c.workload "StatefulSet") (eq $c.updateStrategy.type "Recreate") }}
- coordinator.updateStrategy.type is Recreate, which a StatefulSet does not know. Set it to RollingUpdate (the old pod ends before the new one starts) or OnDelete
{{- end }}
{{- if and (eq $c.workload "Deployment") $c.persistence.enabled (not $c.persistence.existingClaim) }}
- coordinator.workload is Deployment, which makes no claim. Set coordinator.persistence.existingClaim, or coordinator.workload: StatefulSet
{{- end }}
{{- range $c.persistence.accessModes }}
{{- if has . (list "ReadWriteMany" "ReadOnlyMany") }}
- coordinator.persistence.accessModes has {{ . }}: volumes that many nodes mount are network file systems, on which the database can be torn. Use ReadWriteOncePod or ReadWriteOnce on block storage
{{- end }}
{{- end }}
{{- if and (not $c.persistence.enabled) (not $c.persistence.acceptLoss) }}
- coordinator.persistence.enabled is false: a restarted pod would forget every job that was acknowledged. Set it to true, or, where that does not matter, coordinator.persistence.acceptLoss: true
{{- end }}
{{- if and (eq $c.service.type "LoadBalancer") (not $c.service.loadBalancerSourceRanges) }}
- coordinator.service.type is LoadBalancer without coordinator.service.loadBalancerSourceRanges: plaintext gRPC would stand open to the world. Name the networks that may reach it, or use ClusterIP and a port-forward
{{- end }}
{{- if and $c.podDisruptionBudget.enabled (lt (int $c.podDisruptionBudget.maxUnavailable) 1) }}
- coordinator.podDisruptionBudget.maxUnavailable is 0: a node drain would never end. Set it to 1; training goes on while the coordinator moves
{{- end }}
{{- if lt (int $c.terminationGracePeriodSeconds) 10 }}
- coordinator.terminationGracePeriodSeconds is {{ $c.terminationGracePeriodSeconds }}: requests that are in get 5 s, and the store must close after them. Set it to 10 or more
{{- end }}
{{- if eq (int $c.service.port) (int $v.metrics.port) }}
- metrics.port is {{ $v.metrics.port }}, which coordinator.service.port is, too. Set one of them to another port
{{- end }}
{{- include "diptych.refusals.pod" (list . "coordinator" $c) -}}
{{- include "diptych.refusals.image" (list "coordinator.image" $c.image) -}}
{{- end -}}

{{/* Takes (root, pool name). */}}
{{- define "diptych.refusals.pool" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}
{{- $v := $root.Values -}}
{{- $p := include "diptych.poolValues" . | fromYaml -}}
{{- $at := ternary (printf "workers.pools.%s" $name) "workers" (hasKey $v.workers.pools $name) -}}
{{- $full := include "diptych.pool" . -}}
{{- if gt (len $full) 52 }}
- {{ $at }}: its objects would be named {{ $full }}, and with a pod's ending that is more than the 63 characters of a name. Shorten the pool's name, the release's or fullnameOverride
{{- end }}
{{- if lt (int $p.terminationGracePeriodSeconds) (add (int $p.graceSeconds) 15 | int) }}
- {{ $at }}.terminationGracePeriodSeconds is {{ $p.terminationGracePeriodSeconds }}, but graceSeconds is {{ $p.graceSeconds }}: the kubelet would kill the worker while it hands over its ranks. Set terminationGracePeriodSeconds to {{ add (int $p.graceSeconds) 15 }} or more
{{- end }}
{{- if eq (int $p.peerPort) (int $v.metrics.port) }}
- {{ $at }}.peerPort is {{ $p.peerPort }}, which metrics.port is, too. Set one of them to another port
{{- end }}
{{- with $p.dataPorts }}
{{- if lt (sub (int .to) (int .from)) 1000 }}
- {{ $at }}.dataPorts is {{ .from }} to {{ .to }}: every connection of a worker takes a port of it, and so few run out. Give at least 1000
{{- end }}
{{- end }}
{{- range list "requests" "limits" }}
{{- if hasKey (index $p.resources . | default dict) $p.gpu.resource }}
- {{ $at }}.resources.{{ . }} has {{ $p.gpu.resource }}. GPUs are counted by {{ $at }}.gpu.count alone: the worker must know, too
{{- end }}
{{- end }}
{{- if and $p.kueue.queueName $p.volcano.enabled }}
- {{ $at }} has kueue.queueName and volcano.enabled: two that admit pods wait for each other. Choose one
{{- end }}
{{- if and $p.volcano.enabled $p.schedulerName (ne $p.schedulerName "volcano") }}
- {{ $at }}.schedulerName is {{ $p.schedulerName }}, but volcano.enabled makes a group that only the volcano scheduler admits. Leave schedulerName empty
{{- end }}
{{- if gt (int $p.volcano.minMember) (add (int $p.replicas) (int $p.spares) | int) }}
- {{ $at }}.volcano.minMember is {{ $p.volcano.minMember }}, but the pool has {{ add (int $p.replicas) (int $p.spares) }} workers: none would ever start. Set it to that or less
{{- end }}
{{- if and $p.hostNetwork (ne $v.podSecurity "privileged") }}
- {{ $at }}.hostNetwork is true, which the {{ $v.podSecurity }} Pod Security level forbids. Set podSecurity: privileged and label the namespace so, or leave the host's network
{{- end }}
{{- if and $p.hostNetwork $v.networkPolicy.enabled (not $v.networkPolicy.nodeCIDRs) }}
- {{ $at }}.hostNetwork is true and networkPolicy.enabled: policies know such pods by their nodes' addresses only. Set networkPolicy.nodeCIDRs, or networkPolicy.enabled: false
{{- end }}
{{- if and $p.rdma.resource (ne $v.podSecurity "privileged") }}
- {{ $at }}.rdma.resource needs IPC_LOCK, which the {{ $v.podSecurity }} Pod Security level forbids. Set podSecurity: privileged and label the namespace so
{{- end }}
{{- if and (eq $p.kind "JobSet") (eq $p.updateStrategy "OnDelete") }}
- {{ $at }}.updateStrategy is OnDelete, which a JobSet does not know. Leave it, or set kind: StatefulSet
{{- end }}
{{- include "diptych.refusals.pod" (list $root $at $p) -}}
{{- include "diptych.refusals.image" (list (printf "%s.image" $at) $p.image) -}}
{{- end -}}

{{- define "diptych.refusals.surroundings" -}}
{{- $v := .Values -}}
{{- $m := $v.metrics -}}
{{- if gt (len (include "diptych.coordinator" .)) 52 }}
- the coordinator's objects would be named {{ include "diptych.coordinator" . }}, which with a pod's ending is more than 63 characters. Shorten the release's name or fullnameOverride
{{- end }}
{{- if and (eq $v.storage.credentials "secret") (not $v.storage.existingSecret) }}
- storage.existingSecret is empty. Name a Secret with the object store's credentials, or set storage.credentials to workloadIdentity or none
{{- end }}
{{- if and (eq $v.storage.credentials "workloadIdentity") (or (not $v.coordinator.serviceAccount.annotations) (not $v.workers.serviceAccount.annotations)) }}
- storage.credentials is workloadIdentity, but no identity is given. Set coordinator.serviceAccount.annotations and workers.serviceAccount.annotations
{{- end }}
{{- if and (hasPrefix "http://" $v.storage.endpoint) (not $v.storage.allowHttp) }}
- storage.endpoint {{ $v.storage.endpoint }} has no TLS: credentials' signatures and data would travel in the clear. Use https://, or set storage.allowHttp: true
{{- end }}
{{- if and $m.serviceMonitor.enabled (not $m.enabled) }}
- metrics.serviceMonitor.enabled is true, but metrics.enabled is false: there would be nothing to scrape. Set metrics.enabled: true
{{- end }}
{{- if and $m.prometheusRule.enabled (not $m.serviceMonitor.enabled) }}
- metrics.prometheusRule.enabled is true, but metrics.serviceMonitor.enabled is false: its alerts would never fire. Set metrics.serviceMonitor.enabled: true
{{- end }}
{{- if and $v.backup.enabled (not $v.backup.existingClaim) (not $v.backup.size) }}
- backup.enabled is true, but there is nowhere to put backups. Set backup.existingClaim or backup.size
{{- end }}
{{- if and $v.backup.existingClaim (eq $v.backup.existingClaim $v.coordinator.persistence.existingClaim) }}
- backup.existingClaim is the coordinator's own volume: what loses the one loses the other. Name another claim
{{- end }}
{{- if and $v.backup.enabled (not $v.coordinator.persistence.enabled) }}
- backup.enabled is true, but coordinator.persistence.enabled is false: nothing is kept that a backup could bring back. Set one of them anew
{{- end }}
{{- include "diptych.refusals.image" (list "client.image" $v.client.image) -}}
{{- end -}}

{{/* What holds for each pod. Takes (root, where, its values). */}}
{{- define "diptych.refusals.pod" -}}
{{- $root := index . 0 -}}{{- $at := index . 1 -}}{{- $p := index . 2 -}}
{{- range $p.extraEnv }}
{{- if and (regexMatch "(SECRET|PASSWORD|TOKEN|ACCESS_KEY|PRIVATE|CREDENTIAL)" (upper .name)) (not .valueFrom) }}
- {{ $at }}.extraEnv has {{ .name }} with a value in plain text, which every reader of the release would see. Use valueFrom with a Secret
{{- end }}
{{- end }}
{{- if ne $root.Values.podSecurity "privileged" }}
{{- range list "podSecurityContext" "securityContext" }}
{{- $context := index $p . }}
{{- if or (eq (toString $context.runAsUser) "0") (eq (toString $context.runAsNonRoot) "false") }}
- {{ $at }}.{{ . }} runs as root, which the {{ $root.Values.podSecurity }} Pod Security level is to keep out. Leave runAsUser and runAsNonRoot, or set podSecurity: privileged
{{- end }}
{{- if or (eq (toString $context.privileged) "true") (eq (toString $context.allowPrivilegeEscalation) "true") }}
- {{ $at }}.{{ . }} asks for privileges, which the {{ $root.Values.podSecurity }} Pod Security level forbids. Leave privileged and allowPrivilegeEscalation, or set podSecurity: privileged
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Takes (where, image). */}}
{{- define "diptych.refusals.image" -}}
{{- $image := index . 1 -}}
{{- if and (eq $image.tag "latest") (not $image.digest) }}
- {{ index . 0 }}.tag is latest: pods of one release would run different versions after a restart. Name a version, or a digest
{{- end }}
{{- end -}}
