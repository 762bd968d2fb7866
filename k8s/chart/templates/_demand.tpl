{{/* What the deployments ask for, and what the pods have. */}}

{{/* [{pool, pods, cpus, gpus}]: each kind of pod that runs replicas, with its most pods. */}}
{{- define "florence.supplies" -}}
{{- $supplies := list -}}
{{- if include "florence.isSinglePod" . -}}
{{- $supplies = append $supplies (dict "pool" "" "pods" 1 "cpus" (include "florence.cpus" .Values.head | int) "gpus" 0) -}}
{{- end -}}
{{- range (include "florence.groups" . | fromYaml).groups -}}
{{- $supplies = append $supplies (dict "pool" .kind "pods" .maxReplicas "cpus" (include "florence.cpus" . | int) "gpus" (.gpus | default 0)) -}}
{{- end -}}
{{ toYaml $supplies }}
{{- end -}}

{{/* [{name, cpus, gpus, podCpus, podGpus, replicas, room}]: what one replica of a deployment asks for, the most that
     a pod for it has, its most replicas, and how many of them its pods could hold if no other were there. */}}
{{- define "florence.demands" -}}
{{- $supplies := include "florence.supplies" . | fromYamlArray -}}
{{- $app := index (include "florence.serveConfig" . | fromYaml).applications 0 -}}
{{- $demands := list -}}
{{- range $app.deployments -}}
{{- $pool := dig "ray_actor_options" "label_selector" "florence/pool" "" . -}}
{{- $cpus := dig "ray_actor_options" "num_cpus" 1 . | float64 -}}
{{- $gpus := dig "ray_actor_options" "num_gpus" 0 . | float64 -}}
{{- $demand := dict "name" .name "cpus" $cpus "gpus" $gpus "podCpus" 0 "podGpus" 0 "room" 0 -}}
{{- $_ := set $demand "replicas" (.num_replicas | default (dig "autoscaling_config" "max_replicas" 1 .)) -}}
{{- range $supplies -}}
{{- if has $pool (list "" .pool) -}}
{{- $_ := set $demand "podCpus" (max $demand.podCpus .cpus) -}}
{{- $_ := set $demand "podGpus" (max $demand.podGpus .gpus) -}}
{{- $each := divf .cpus (maxf $cpus 0.001) -}}
{{- if $gpus }}{{ $each = minf $each (divf .gpus $gpus) }}{{ end -}}
{{- $_ := set $demand "room" (add $demand.room (mul .pods (floor $each))) -}}
{{- end -}}
{{- end -}}
{{- $demands = append $demands $demand -}}
{{- end -}}
{{ toYaml $demands }}
{{- end -}}
