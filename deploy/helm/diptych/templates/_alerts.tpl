{{/* One alert. Takes (root, name, severity, for, expression, summary). Braces of Prometheus stand as [[ and ]]. */}}
{{- define "diptych.alert" -}}
{{- $root := index . 0 -}}
- alert: {{ index . 1 }}
  expr: {{ index . 4 | quote }}
  for: {{ index . 3 }}
  labels: { severity: {{ index . 2 }} }
  annotations:
    summary: {{ index . 5 | replace "[[" "{{" | replace "]]" "}}" | quote }}
    {{- with $root.Values.metrics.prometheusRule.runbookUrl }}
    runbook_url: {{ printf "%s#%s" . (index $ 1 | lower) | quote }}
    {{- end }}
{{- end -}}

{{- define "diptych.alerts" -}}
{{- $rule := .Values.metrics.prometheusRule -}}
{{- $space := .Release.Namespace -}}
{{- $here := printf "namespace=%q" $space -}}
{{- $coordinator := printf "namespace=%q,service=%q" $space (printf "%s-metrics" (include "diptych.coordinator" .)) -}}
{{- $workers := printf "namespace=%q,pod=~%q" $space (printf "%s-worker.*" (include "diptych.fullname" .)) -}}
{{- $claim := printf "namespace=%q,persistentvolumeclaim=%q" $space (default (printf "data-%s-0" (include "diptych.coordinator" .)) .Values.coordinator.persistence.existingClaim) -}}
{{ include "diptych.alert" (list . "DiptychCoordinatorDown" "critical" "2m" (printf "absent(up{%s} == 1)" $coordinator) "the coordinator has not been scraped for 2 minutes; training goes on without it for the workers' orphan-limit") }}
{{ include "diptych.alert" (list . "DiptychNoProgress" "critical" $rule.noProgressFor (printf "max by (job_id) (diptych_job_state{%s,state=\"running\"}) == 1 unless on (job_id) (sum by (job_id) (increase(diptych_step_seconds_count{%s}[10m])) > 0)" $here $here) "job [[ $labels.job_id ]] runs without a step") }}
{{ include "diptych.alert" (list . "DiptychCheckpointOld" "warning" "5m" (printf "max by (job_id) (diptych_checkpoint_age_seconds{%s}) > %d" $here (int $rule.checkpointAgeSeconds)) "the newest durable checkpoint of job [[ $labels.job_id ]] is [[ $value | humanizeDuration ]] old") }}
{{ include "diptych.alert" (list . "DiptychCheckpointDamaged" "critical" "0m" (printf "increase(diptych_ckpt_verify_failures_total{%s}[15m]) > 0 or (diptych_ckpt_verify_failures_total{%s} > 0 unless diptych_ckpt_verify_failures_total{%s} offset 15m)" $here $here $here) "a checkpoint failed its verification") }}
{{ include "diptych.alert" (list . "DiptychCrashLoop" "warning" "0m" (printf "sum by (job_id) (increase(diptych_generation_total{%s,cause!~\"start|planned|retry\"}[1h])) > 5" $here) "job [[ $labels.job_id ]] lost [[ $value | humanize ]] attempts within an hour") }}
{{ include "diptych.alert" (list . "DiptychWorkerFlapping" "warning" "0m" (printf "changes(up{%s}[30m]) > 4" $workers) "worker [[ $labels.pod ]] comes and goes") }}
{{ include "diptych.alert" (list . "DiptychStraggler" "warning" "15m" (printf "max by (job_id, rank) (diptych_straggler_ratio{%s}) > 1.5" $here) "rank [[ $labels.rank ]] of job [[ $labels.job_id ]] takes [[ $value | humanize ]] times the others' time") }}
{{ include "diptych.alert" (list . "DiptychQueueStuck" "warning" "1h" (printf "diptych_queue_depth{%s} > 0 and on (namespace) increase(diptych_gang_blocked_total{%s}[10m]) > 0" $here $here) "jobs have waited for devices for an hour") }}
{{ include "diptych.alert" (list . "DiptychJournalSlow" "warning" "10m" (printf "histogram_quantile(0.99, sum by (le) (rate(diptych_journal_fsync_seconds_bucket{%s}[5m]))) > 0.25" $here) "one in a hundred commits of the coordinator takes [[ $value | humanizeDuration ]]") }}
{{ include "diptych.alert" (list . "DiptychJournalFull" "critical" "5m" (printf "kubelet_volume_stats_available_bytes{%s} / kubelet_volume_stats_capacity_bytes{%s} < 0.1" $claim $claim) "the coordinator's volume is nearly full: at its end new jobs are refused") }}
{{- end -}}
