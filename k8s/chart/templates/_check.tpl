{{/* What a schema cannot see: values that do not go together, each with its remedy. */}}
{{- define "florence.check" -}}
{{- $values := .Values -}}
{{- $name := include "florence.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "%q is no name for a RayService: set fullnameOverride to one of small letters, digits and dashes that begins with a letter" $name) -}}
{{- end -}}
{{- if and (not (include "florence.isSinglePod" .)) (not $values.database.existingSecret) (not (dig "store" "url" "" $values.settings)) -}}
{{- fail "database.existingSecret is needed with cpuGroups or gpuGroups: the queue of several pods is in PostgreSQL; make a Secret with its URL, or empty both lists for one pod with SQLite" -}}
{{- end -}}
{{- if dig "model" "path" "" $values.settings -}}
{{- fail "settings.model.path follows from model.source: set model.id, model.path or model.imageVolume.reference" -}}
{{- end -}}
{{- if and (eq $values.model.source "imageVolume") (not $values.model.imageVolume.reference) -}}
{{- fail "model.imageVolume.reference is needed for model.source imageVolume" -}}
{{- end -}}
{{- if and $values.files.url $values.files.existingClaim -}}
{{- fail "files.url and files.existingClaim exclude each other" -}}
{{- end -}}
{{- if and (eq $values.gcs.faultTolerance "redis") (not $values.gcs.redis.address) -}}
{{- fail "gcs.redis.address is needed for gcs.faultTolerance redis" -}}
{{- end -}}
{{- if and (eq $values.gcs.faultTolerance "rocksdb") (not $values.gcs.rocksdb.featureGateEnabled) -}}
{{- fail "gcs.faultTolerance rocksdb needs KubeRay's alpha gate GCSFaultToleranceEmbeddedStorage: turn it on in the operator and set gcs.rocksdb.featureGateEnabled" -}}
{{- end -}}
{{- if eq $values.upgrade.strategy "NewClusterWithIncrementalUpgrade" -}}
{{- if not $values.upgrade.incremental.gatewayClassName -}}
{{- fail "upgrade.incremental.gatewayClassName is needed for the strategy NewClusterWithIncrementalUpgrade" -}}
{{- end -}}
{{- if gt $values.upgrade.incremental.stepSizePercent $values.upgrade.incremental.maxSurgePercent -}}
{{- fail "upgrade.incremental.stepSizePercent must not be above maxSurgePercent" -}}
{{- end -}}
{{- if include "florence.isSinglePod" . -}}
{{- fail "the strategy NewClusterWithIncrementalUpgrade needs groups: one pod has no autoscaler" -}}
{{- end -}}
{{- if $values.httpRoute.enabled -}}
{{- fail "httpRoute.enabled goes past the Gateway of NewClusterWithIncrementalUpgrade: KubeRay makes its own HTTPRoute" -}}
{{- end -}}
{{- if $values.ingress.enabled -}}
{{- fail "ingress.enabled goes past the Gateway of NewClusterWithIncrementalUpgrade: point DNS at that Gateway, see k8s/README.md" -}}
{{- end -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "ingress.hosts is needed for ingress.enabled" -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is needed for httpRoute.enabled" -}}
{{- end -}}
{{- $seen := dict -}}
{{- range (include "florence.groups" . | fromYaml).groups -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "two groups are named %q: give each its own name" .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- if gt .minReplicas .maxReplicas -}}
{{- fail (printf "group %s: minReplicas must not be above maxReplicas" .name) -}}
{{- end -}}
{{- end -}}
{{- range include "florence.demands" . | fromYamlArray -}}
{{- if gt (float64 .cpus) (float64 .podCpus) -}}
{{- fail (printf "%s asks for %v CPUs, and no pod for it has more than %v: raise resources.requests.cpu of its pods, or lower serve.deployments.%s.ray_actor_options.num_cpus" .name .cpus .podCpus .name) -}}
{{- end -}}
{{- if gt (float64 .gpus) (float64 .podGpus) -}}
{{- fail (printf "%s asks for %v GPUs, and no pod has more than %v: raise gpus of a group in gpuGroups, or lower serve.deployments.%s.ray_actor_options.num_gpus" .name .gpus .podGpus .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
