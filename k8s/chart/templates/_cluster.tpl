{{/* The Ray cluster and its parts. */}}

{{- define "florence.cluster" -}}
rayVersion: {{ include "florence.rayVersion" . | quote }}
{{- if .Values.rayAuth.enabled }}
authOptions:
  mode: token
  {{- with .Values.rayAuth.existingSecret }}
  secretName: {{ . }}
  {{- end }}
{{- end }}
{{- with include "florence.gcs" . }}{{ . | nindent 0 }}{{ end }}
enableInTreeAutoscaling: {{ not (include "florence.isSinglePod" .) }}
{{- if not (include "florence.isSinglePod" .) }}
autoscalerOptions:
  version: v2
  upscalingMode: {{ .Values.autoscaler.upscalingMode }}
  idleTimeoutSeconds: {{ .Values.autoscaler.idleTimeoutSeconds }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [bash, -c] # as process 1 the autoscaler would not hear SIGTERM, and the head would take its whole grace
  args:
    - |
      ray kuberay-autoscaler --cluster-name "$RAY_CLUSTER_NAME" --cluster-namespace "$RAY_CLUSTER_NAMESPACE" &
      autoscaler=$!
      trap 'kill "$autoscaler"' TERM
      wait "$autoscaler"
  env:
    - {name: RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S, value: {{ .Values.autoscaler.podTimeoutSeconds | quote }}}
  resources: {{- toYaml .Values.autoscaler.resources | nindent 4 }}
  {{- include "florence.containerSecurity" . | nindent 2 }}
  volumeMounts:
    - {name: scratch, mountPath: /tmp, subPath: autoscaler}
    - {name: scratch, mountPath: /home/ray, subPath: home}
{{- end }}
headGroupSpec: {{- include "florence.head" . | nindent 2 }}
{{- if not (include "florence.isSinglePod" .) }}
workerGroupSpecs:
  {{- range (include "florence.groups" . | fromYaml).groups }}
  - {{- include "florence.worker" (dict "root" $ "group" .) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* A head takes no replicas, so that losing it loses none; alone it takes them all, and has nobody to leave
     its requests to when it stops. */}}
{{- define "florence.head" -}}
{{- $single := include "florence.isSinglePod" . -}}
{{- $head := mergeOverwrite (deepCopy .Values.head) (dict "runtimeClassName" "") -}}
rayStartParams:
  num-cpus: {{ if $single }}{{ include "florence.cpus" $head | quote }}{{ else }}"0"{{ end }}
  num-gpus: "0"
template:
  {{- $keep := dict "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" "karpenter.sh/do-not-disrupt" "true" }}
  {{- include "florence.rayPod" (dict "root" . "component" "head" "group" $head
        "annotations" $keep
        "model" $single
        "drain" (ternary 0 .Values.drain.seconds (not (empty $single)))
        "shmSize" (get (default dict $head.resources.limits) "memory" | default "2Gi")
        "resources" (toYaml $head.resources)
        "ports" (include "florence.headPorts" .)
      ) | nindent 2 }}
{{- end -}}

{{- define "florence.headPorts" -}}
- {name: gcs-server, containerPort: 6379}
- {name: dashboard, containerPort: 8265}
- {name: client, containerPort: 10001}
- {name: metrics, containerPort: 8080}
- {name: as-metrics, containerPort: 44217}
- {name: dash-metrics, containerPort: 44227}
- {name: serve, containerPort: 8000}
{{- end -}}

{{/* {root, group} */}}
{{- define "florence.worker" -}}
{{- $group := .group -}}
groupName: {{ $group.name }}
replicas: {{ $group.minReplicas }}
minReplicas: {{ $group.minReplicas }}
maxReplicas: {{ $group.maxReplicas }}
idleTimeoutSeconds: {{ $group.idleTimeoutSeconds }}
{{- with $group.priority }}
priority: {{ . }}
{{- end }}
labels: {{- include "florence.rayLabels" $group | nindent 2 }}
rayStartParams:
  num-cpus: {{ include "florence.cpus" $group | quote }}
  num-gpus: {{ ternary $group.gpus 0 (eq $group.kind "gpu") | toString | quote }}
scaleStrategy: {}
template:
  {{- include "florence.rayPod" (dict "root" .root "component" "worker" "group" $group
        "model" true
        "drain" ($group.drainSeconds | default .root.Values.drain.seconds)
        "shmSize" ($group.shmSize | default (get (default dict $group.resources.limits) "memory") | default "2Gi")
        "resources" (include "florence.resources" $group)
        "ports" (include "florence.workerPorts" .)
        "probe" (include "florence.workerProbe" .)
      ) | nindent 2 }}
{{- end -}}

{{- define "florence.workerPorts" -}}
- {name: metrics, containerPort: 8080}
- {name: serve, containerPort: 8000}
{{- end -}}

{{/* In place of KubeRay's, which runs wget in a shell and gives it 2 of its 10 seconds. A worker is
     ready when its proxy knows an Ingress; one without any replica has no proxy and is not. */}}
{{- define "florence.workerProbe" -}}
httpGet: {path: /-/healthz, port: serve}
periodSeconds: 2 # the Service moves to a new cluster when Serve runs there: its pods have to be ready soon after
timeoutSeconds: 1
failureThreshold: 5
{{- end -}}

{{- define "florence.gcs" -}}
{{- $gcs := .Values.gcs -}}
{{- if ne $gcs.faultTolerance "none" -}}
gcsFaultToleranceOptions:
  {{- if eq $gcs.faultTolerance "redis" }}
  redisAddress: {{ $gcs.redis.address }}
  {{- with $gcs.redis.existingSecret }}
  redisPassword:
    valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $gcs.redis.key }}}}
  {{- end }}
  {{- else }}
  backend: rocksdb
  storage:
    size: {{ include "florence.quantity" $gcs.rocksdb.size | quote }}
    {{- with $gcs.rocksdb.storageClassName }}
    storageClassName: {{ . }}
    {{- end }}
    deletionPolicy: DeleteWithCluster
  {{- end }}
{{- end }}
{{- end -}}
