{{/* What works, and is not for production. */}}
{{- define "florence.warnings" -}}
{{- $values := .Values -}}
{{- $single := include "florence.isSinglePod" . -}}
{{- $warnings := list -}}
{{- if $single -}}
{{- $warnings = append $warnings "One pod is the whole service: its queue, keys and pictures go with it, also in every release. Give cpuGroups, gpuGroups and database.existingSecret." -}}
{{- end -}}
{{- if not $values.auth.existingSecret -}}
{{- $warnings = append $warnings "No API key: every call is refused until `florence keys create --store …` has made one, or auth.existingSecret names one. `helm test` makes no request." -}}
{{- end -}}
{{- if not (or $single $values.files.url $values.files.existingClaim) -}}
{{- $warnings = append $warnings "Pictures and uploads stay on the pod that wrote them, and other pods answer 404: set files.url or files.existingClaim." -}}
{{- end -}}
{{- if not $values.webhooks.existingSecret -}}
{{- $warnings = append $warnings "Webhooks are signed with keys that go with their pod: set webhooks.existingSecret." -}}
{{- end -}}
{{- if and (eq $values.gcs.faultTolerance "none") (not $single) -}}
{{- $warnings = append $warnings "A head that dies takes the cluster along, for some minutes: set gcs.faultTolerance." -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.tls) -}}
{{- $warnings = append $warnings "The Ingress has no TLS: keys travel in the clear, unless something before it ends TLS." -}}
{{- end -}}
{{- if not $values.rayAuth.enabled -}}
{{- $warnings = append $warnings "Ray's dashboard and jobs ask for no token: a client that reaches the head can run code. Set rayAuth.enabled." -}}
{{- end -}}
{{- if not $values.networkPolicy.enabled -}}
{{- $warnings = append $warnings "No network policy: image URLs are checked by the service alone, and Ray's ports are open to the cluster." -}}
{{- end -}}
{{- if and (eq $values.model.source "hub") (eq $values.model.revision "main") -}}
{{- $warnings = append $warnings "model.revision is a branch: pods that start later may run other weights. Pin a commit." -}}
{{- end -}}
{{- if ne $values.service.type "ClusterIP" -}}
{{- $warnings = append $warnings "The Service is open beyond the cluster without TLS." -}}
{{- end -}}
{{- if and (eq $values.model.source "pvc") (not $values.model.pvc.existingClaim) (not $values.model.pvc.storageClassName) (has "ReadWriteMany" $values.model.pvc.accessModes) -}}
{{- $warnings = append $warnings "The claim of the weights asks the cluster's default class for ReadWriteMany, which disks of Google, AWS and Azure do not give; its pods then stay Pending. Set model.pvc.storageClassName." -}}
{{- end -}}
{{- if eq $values.upgrade.strategy "NewClusterWithIncrementalUpgrade" -}}
{{- $warnings = append $warnings "KubeRay's Gateway speaks plain HTTP at port 80: keys travel in the clear, unless something before it ends TLS." -}}
{{- end -}}
{{- range include "florence.demands" . | fromYamlArray -}}
{{- if gt (int .replicas) (int .room) -}}
{{- $warnings = append $warnings (printf "%s may have %d replicas, and its pods hold %d of them: the rest waits for ever. Raise maxReplicas of its groups, or lower serve.deployments.%s." .name (int .replicas) (int .room) .name) -}}
{{- end -}}
{{- end -}}
{{- if .Release.IsUpgrade -}}
{{- if not $single -}}
{{- $warnings = append $warnings "Changed limits (minReplicas, maxReplicas) or tolerations of a group alone do nothing to the running cluster: k8s/README.md, \"Limits\"." -}}
{{- end -}}
{{- if or (ne $values.service.type "ClusterIP") $values.service.annotations -}}
{{- $warnings = append $warnings "A changed service.type waits for the next cluster, and changed service.annotations are never applied: k8s/README.md, \"Changing values\", has the commands." -}}
{{- end -}}
{{- end -}}
{{- with $warnings }}
Mind:
{{ range . }}
  - {{ . }}
{{- end }}
{{- end }}
{{- end -}}
