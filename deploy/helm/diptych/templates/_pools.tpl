{{/* The pools by name: one called "default" where none is given. */}}
{{- define "diptych.pools" -}}
{{- default (dict "default" dict) .Values.workers.pools | toYaml -}}
{{- end -}}

{{/* Values of one pool: its own over those of all workers; a list or a setting replaces the whole. Takes (root, pool name). */}}
{{- define "diptych.poolValues" -}}
{{- $root := index . 0 -}}
{{- $common := omit $root.Values.workers "pools" "serviceAccount" | deepCopy -}}
{{- $own := index $root.Values.workers.pools (index . 1) | default dict | deepCopy -}}
{{- mergeOverwrite $common $own | toYaml -}}
{{- end -}}
