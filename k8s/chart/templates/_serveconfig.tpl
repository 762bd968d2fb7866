{{/* serve_config.yaml, with what the chart knows and what the values say laid over it. */}}

{{- define "florence.serveConfig" -}}
{{- $config := .Files.Get "files/serve_config.yaml" | fromYaml -}}
{{- $app := index $config.applications 0 -}}
{{- $known := include "florence.knownSettings" . | fromYaml -}}
{{- $_ := set $app "args" (mergeOverwrite $app.args $known (deepCopy .Values.settings)) -}}
{{- range $deployment := $app.deployments -}}
{{- $over := deepCopy (default dict (index $.Values.serve.deployments $deployment.name)) -}}
{{- $_ := mergeOverwrite $deployment (include "florence.knownOptions" (dict "root" $ "deployment" $deployment) | fromYaml) $over -}}
{{- if hasKey $over "autoscaling_config" }}{{ $_ := unset $deployment "num_replicas" }}{{ end -}}
{{- if hasKey $deployment "num_replicas" }}{{ $_ := unset $deployment "autoscaling_config" }}{{ end -}}
{{- end -}}
{{- $variables := $config.controller_options.runtime_env.env_vars -}}
{{- $_ := set $variables "RAY_SERVE_ENABLE_HA_PROXY" (ternary "1" "0" .Values.serve.haproxy) -}}
{{ toYaml $config }}
{{- end -}}

{{/* Settings that follow from other values. */}}
{{- define "florence.knownSettings" -}}
model:
  path: {{ include "florence.modelPath" . | quote }}
  revision: {{ .Values.model.revision | quote }}
  {{- if not .Values.gpuGroups }}
  device: cpu
  dtype: auto
  {{- end }}
{{- if include "florence.isSinglePod" . }}
inference:
  max_batch_size: 8
{{- end }}
{{- with .Values.files.url }}
files:
  root: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Options of a deployment that follow from other values. One pod has one small replica of each. With both kinds of
     groups, deployments without a model stay off the GPU pods, which they would keep from going. */}}
{{- define "florence.knownOptions" -}}
{{- $values := .root.Values -}}
{{- if include "florence.isSinglePod" .root }}
num_replicas: 1
{{- if eq .deployment.name "Inference" }}
max_surge_percent: 0
ray_actor_options: {num_cpus: 1, num_gpus: 0}
{{- else }}
ray_actor_options: {num_cpus: 0.25}
{{- end -}}
{{- else if eq .deployment.name "Inference" -}}
{{- if not $values.gpuGroups }}
ray_actor_options: {num_gpus: 0}
{{- end -}}
{{- else if and $values.cpuGroups $values.gpuGroups }}
ray_actor_options: {label_selector: {florence/pool: cpu}}
{{- end -}}
{{- end -}}

{{- define "florence.modelPath" -}}
{{- $model := .Values.model -}}
{{- $path := $model.path | default (ternary "demo" "florence-2-large" (eq $model.source "image")) -}}
{{- if eq $model.source "hub" }}{{ $model.id }}
{{- else if or (eq $path "demo") (hasPrefix "/" $path) }}{{ $path }}
{{- else }}/models/{{ $path }}{{ end -}}
{{- end -}}
