{{/* Names, labels and the image: what every object says of itself. */}}

{{/* 47 characters is what KubeRay allows a RayService; its Services append to it. */}}
{{- define "florence.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | lower | trunc 47 | trimSuffix "-" -}}
{{- end -}}

{{- define "florence.serveService" -}}
{{ include "florence.fullname" . }}-serve-svc
{{- end -}}

{{/* What never changes with a release, and so may stand in the templates of pods. */}}
{{- define "florence.selectorLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: florence
{{- end -}}

{{- define "florence.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "florence.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/name: {{ .Chart.Name }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
  {{- with .Values.commonLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "florence.image" -}}
{{- $image := .Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end -}}

{{- define "florence.rayVersion" -}}
{{ default (index .Chart.Annotations "ray.io/version") .Values.rayVersion }}
{{- end -}}
