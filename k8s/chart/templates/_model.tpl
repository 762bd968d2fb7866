{{/* The checkpoint in a volume. */}}

{{- define "florence.modelClaim" -}}
{{ default (printf "%s-model" (include "florence.fullname" .)) .Values.model.pvc.existingClaim }}
{{- end -}}

{{/* Left by the loader when all of this revision is there. */}}
{{- define "florence.modelMark" -}}
{{ include "florence.modelPath" . }}/.complete-{{ printf "%s@%s" .Values.model.id .Values.model.revision | sha256sum | trunc 8 }}
{{- end -}}

{{- define "florence.waitForModel" -}}
- name: wait-for-model
  image: {{ include "florence.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [bash, -c, 'until [ -e "$0" ]; do echo "waiting for $0: kubectl logs -l app.kubernetes.io/component=model-loader"; sleep 5; done']
  args: [{{ include "florence.modelMark" . | quote }}]
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  {{- include "florence.containerSecurity" . | nindent 2 }}
  volumeMounts:
    - {name: model, mountPath: /models, readOnly: true}
{{- end -}}
