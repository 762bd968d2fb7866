{{/* Peers and rules that the policies share. */}}

{{- define "florence.ownPods" -}}
- podSelector: {matchLabels: {{ include "florence.selectorLabels" . | fromYaml | toJson }}}
{{- end -}}

{{/* What every pod may reach: names, its own kind, and the internet without what is blocked. */}}
{{- define "florence.egress" -}}
{{- $egress := .Values.networkPolicy.egress -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
- to:
    {{- include "florence.ownPods" . | nindent 4 }}
- to:
    - ipBlock: {cidr: 0.0.0.0/0, except: {{ toJson $egress.blocked }}}
    - ipBlock: {cidr: "::/0", except: {{ toJson $egress.blockedIPv6 }}}
  ports:
    {{- range $egress.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- with $egress.allowed }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "florence.fromMonitoring" -}}
{{- with .Values.networkPolicy.monitoring -}}
- from: {{- toYaml . | nindent 4 }}
  ports:
    - {protocol: TCP, port: 8080}
    - {protocol: TCP, port: 44217}
    - {protocol: TCP, port: 44227}
{{- end -}}
{{- end -}}

{{- define "florence.fromClients" -}}
- ports:
    - {protocol: TCP, port: 8000}
  {{- with .Values.networkPolicy.clients }}
  from: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
