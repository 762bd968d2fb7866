{{/* What all pods share. Nothing here may follow from the chart's version or from checksums: any
     change of a template replaces the whole cluster. */}}

{{/* A pod of Ray. {root, group, component, drain, …}; `model` is whether replicas run in it, which read the
     checkpoint: all but the Dispatcher do. */}}
{{- define "florence.rayPod" -}}
{{- $root := .root -}}
{{- $group := .group -}}
{{- $volumes := dict "root" $root "model" .model -}}
{{- $waits := and .model (eq $root.Values.model.source "pvc") $root.Values.model.pvc.loader.enabled -}}
metadata:
  {{- $own := include "florence.selectorLabels" $root | fromYaml }}
  labels: {{- mergeOverwrite (dict) $group.labels $own (dict "app.kubernetes.io/component" .component) | toYaml | nindent 4 }}
  {{- $annotations := merge (dict) $group.annotations (default dict .annotations) }}
  {{- with $root.Values.rolloutToken }}{{ $_ := set $annotations "florence/rollout-token" . }}{{ end }}
  {{- with $annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ $group.serviceAccountName | default (printf "%s-%s" (include "florence.fullname" $root) .component) }}
  automountServiceAccountToken: {{ eq .component "head" }}
  terminationGracePeriodSeconds: {{ add .drain $root.Values.drain.marginSeconds }}
  {{- include "florence.podSecurity" $root | nindent 2 }}
  {{- with include "florence.placement" (dict "root" $root "group" $group) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- if or $waits $group.initContainers }}
  initContainers:
    {{- if $waits }}{{ include "florence.waitForModel" $root | nindent 4 }}{{ end }}
    {{- with $group.initContainers }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- end }}
  containers:
    - name: ray-{{ .component }}
      image: {{ include "florence.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      ports: {{- .ports | nindent 8 }}
      {{- with .probe }}
      readinessProbe: {{- . | nindent 8 }}
      {{- end }}
      resources: {{- .resources | nindent 8 }}
      {{- include "florence.containerSecurity" $root | nindent 6 }}
      env:
        - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
          value: {{ .drain | quote }}
        {{- include "florence.env" $root | nindent 8 }}
        {{- with $group.env }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- with include "florence.envFrom" $root | trim }}{{ . | nindent 6 }}{{ end }}
      volumeMounts:
        {{- include "florence.volumeMounts" $volumes | nindent 8 }}
        - {name: ray-logs, mountPath: /tmp/ray}
        - {name: shared-mem, mountPath: /dev/shm}
    {{- with $root.Values.extra.containers }}{{ toYaml . | nindent 4 }}{{ end }}
  volumes:
    {{- include "florence.volumes" $volumes | nindent 4 }}
    - name: ray-logs # which KubeRay would make in heads with an autoscaler, and nowhere else
      emptyDir: {sizeLimit: {{ $root.Values.scratch.sizeLimit }}}
    - name: shared-mem
      emptyDir: {medium: Memory, sizeLimit: {{ .shmSize }}}
{{- end -}}

{{- define "florence.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.security.runAsUser }}
  runAsGroup: {{ .Values.security.fsGroup }}
  fsGroup: {{ .Values.security.fsGroup }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "florence.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: {{ .Values.security.readOnlyRootFilesystem }}
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where a pod goes. {root, group} */}}
{{- define "florence.placement" -}}
{{- with .root.Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .group.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .group.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .group.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .group.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .group.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .group.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The environment of whatever runs our code. Secrets are named, never made. */}}
{{- define "florence.env" -}}
- {name: HOME, value: /home/ray}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- if ne .Values.model.source "hub" }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
- {name: XDG_STATE_HOME, value: /var/lib} # commands of `florence` in the pod find the folder of the service
- name: FLORENCE_STORE
  {{- with .Values.database }}
  {{- if .existingSecret }}
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}}
  {{- else }}
  value: {{ dig "store" "url" "sqlite:////var/lib/florence/queue.db" $.Values.settings | quote }}
  {{- end }}
  {{- end }}
{{- if .Values.auth.existingSecret }}
- name: FLORENCE_API_KEY
  valueFrom: {secretKeyRef: {name: {{ .Values.auth.existingSecret }}, key: {{ .Values.auth.key }}}}
{{- end }}
{{- include "florence.hubToken" . }}
{{- with .Values.extra.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "florence.hubToken" -}}
{{- if .Values.model.hubToken.existingSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .Values.model.hubToken.existingSecret }}, key: {{ .Values.model.hubToken.key }}}}
{{- end }}
{{- end -}}

{{- define "florence.envFrom" -}}
{{- if or .Values.files.existingSecret .Values.extra.envFrom }}
envFrom:
  {{- with .Values.files.existingSecret }}
  - secretRef: {name: {{ . }}}
  {{- end }}
  {{- with .Values.extra.envFrom }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end -}}

{{/* {root, model} */}}
{{- define "florence.volumes" -}}
{{- $model := and .model .root.Values.model.source -}}
{{- with .root -}}
- name: scratch
  emptyDir: {sizeLimit: {{ .Values.scratch.sizeLimit }}}
{{- if .Values.files.existingClaim }}
- name: files
  persistentVolumeClaim: {claimName: {{ .Values.files.existingClaim }}}
{{- end }}
{{- with .Values.webhooks.existingSecret }}
- name: webhook-keys
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if eq $model "pvc" }}
- name: model
  persistentVolumeClaim: {claimName: {{ include "florence.modelClaim" . }}, readOnly: true}
{{- else if eq $model "imageVolume" }}
- name: model
  image: {reference: {{ .Values.model.imageVolume.reference }}, pullPolicy: {{ .Values.model.imageVolume.pullPolicy }}}
{{- end }}
{{- with .Values.extra.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* {root, model} */}}
{{- define "florence.volumeMounts" -}}
{{- $model := and .model .root.Values.model.source -}}
{{- with .root -}}
- {name: scratch, mountPath: /tmp, subPath: tmp}
- {name: scratch, mountPath: /home/ray, subPath: home}
- {name: scratch, mountPath: /var/lib/florence, subPath: state}
{{- if .Values.files.existingClaim }}
- {name: files, mountPath: /var/lib/florence/files}
{{- end }}
{{- if .Values.webhooks.existingSecret }}
- {name: webhook-keys, mountPath: /var/lib/florence/webhooks, readOnly: true}
{{- end }}
{{- if has $model (list "pvc" "imageVolume") }}
- {name: model, mountPath: /models, readOnly: true}
{{- end }}
{{- with .Values.extra.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}
