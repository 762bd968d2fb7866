{{/* The groups of workers, each laid over its kind's defaults. */}}

{{/* {groups: […]}, those with GPUs last: KubeRay takes what is appended into a running cluster. */}}
{{- define "florence.groups" -}}
{{- $groups := list -}}
{{- range $kind, $given := dict "cpu" .Values.cpuGroups "gpu" .Values.gpuGroups -}}
{{- range $group := $given -}}
{{- $defaults := deepCopy (index $.Values.groupDefaults $kind) -}}
{{- $groups = append $groups (mergeOverwrite $defaults (deepCopy $group) (dict "kind" $kind)) -}}
{{- end -}}
{{- end -}}
{{ toYaml (dict "groups" $groups) }}
{{- end -}}

{{/* Whether the head is the whole service. */}}
{{- define "florence.isSinglePod" -}}
{{- if not (or .Values.cpuGroups .Values.gpuGroups) }}true{{ end -}}
{{- end -}}

{{/* Ray's CPUs of a group: those that its container asks for, whole. */}}
{{- define "florence.cpus" -}}
{{- $asked := toString .resources.requests.cpu -}}
{{- if hasSuffix "m" $asked }}{{ max 1 (div (trimSuffix "m" $asked | int) 1000) }}
{{- else }}{{ max 1 (floor (float64 $asked) | int) }}{{ end -}}
{{- end -}}

{{/* A group's resources, its GPUs included. */}}
{{- define "florence.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if eq .kind "gpu" -}}
{{- $gpu := dict .gpuResource .gpus -}}
{{- $_ := set $resources "limits" (merge $gpu (default dict $resources.limits)) -}}
{{- $_ := set $resources "requests" (merge (deepCopy $gpu) (default dict $resources.requests)) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end -}}

{{/* Ray's own labels of a group, by which deployments find their pods. */}}
{{- define "florence.rayLabels" -}}
florence/pool: {{ .kind }}
{{- if and (eq .kind "gpu") .accelerator }}
ray.io/accelerator-type: {{ .accelerator }}
{{- end }}
{{- end -}}
