{{/* What all pods share. Nothing here may follow from the chart's version or from checksums: any
     change of a template replaces the whole cluster. */}}

{{/* A pod of Ray. {root, group, component, grace} */}}
{{- define "florence.rayPod" -}}
{{- $root := .root -}}
{{- $group := .group -}}
metadata:
  labels:
    {{- include "florence.selectorLabels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  {{- $annotations := merge (dict) $group.annotations (default dict .annotations) }}
  {{- with $root.Values.rolloutToken }}{{ $_ := set $annotations "florence/rollout-token" . }}{{ end }}
  {{- with $annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "florence.fullname" $root }}-{{ .component }}
  automountServiceAccountToken: {{ eq .component "head" }}
  terminationGracePeriodSeconds: {{ add .drain $root.Values.drain.marginSeconds }}
  {{- include "florence.podSecurity" $root | nindent 2 }}
  {{- with include "florence.placement" (dict "root" $root "group" $group) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- if and (eq $root.Values.model.source "pvc") $root.Values.model.pvc.loader.enabled }}
  initContainers:
    {{- include "florence.waitForModel" $root | nindent 4 }}
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
        {{- include "florence.volumeMounts" $root | nindent 8 }}
        - {name: shared-mem, mountPath: /dev/shm}
    {{- with $root.Values.extra.containers }}{{ toYaml . | nindent 4 }}{{ end }}
  volumes:
    {{- include "florence.volumes" $root | nindent 4 }}
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
{{- end -}}

{{/* The environment of whatever runs our code. Secrets are named, never made. */}}
{{- define "florence.env" -}}
- {name: HOME, value: /home/ray}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- if ne .Values.model.source "hub" }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- if .Values.database.existingSecret }}
- name: FLORENCE_STORE
  valueFrom: {secretKeyRef: {name: {{ .Values.database.existingSecret }}, key: {{ .Values.database.key }}}}
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

{{- define "florence.volumes" -}}
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
{{- if eq .Values.model.source "pvc" }}
- name: model
  persistentVolumeClaim: {claimName: {{ include "florence.modelClaim" . }}, readOnly: true}
{{- else if eq .Values.model.source "imageVolume" }}
- name: model
  image: {reference: {{ .Values.model.imageVolume.reference }}, pullPolicy: {{ .Values.model.imageVolume.pullPolicy }}}
{{- end }}
{{- with .Values.extra.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "florence.volumeMounts" -}}
- {name: scratch, mountPath: /tmp, subPath: tmp}
- {name: scratch, mountPath: /home/ray, subPath: home}
- {name: scratch, mountPath: /var/lib/florence, subPath: state}
{{- if .Values.files.existingClaim }}
- {name: files, mountPath: /var/lib/florence/files}
{{- end }}
{{- if .Values.webhooks.existingSecret }}
- {name: webhook-keys, mountPath: /etc/florence/webhooks, readOnly: true}
{{- end }}
{{- if has .Values.model.source (list "pvc" "imageVolume") }}
- {name: model, mountPath: /models, readOnly: true}
{{- end }}
{{- with .Values.extra.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
