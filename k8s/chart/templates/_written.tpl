{{/* What KubeRay's operator writes back. When it adds its finalizer it writes the whole spec in the form of its
     Go types. Lists such as `workerGroupSpecs` have one owner: where that form differs from ours, the list is the
     operator's from then on, and every upgrade conflicts with it. So the chart writes that form itself. */}}

{{/* Changes an object in place and prints nothing. */}}
{{- define "florence.asWritten" -}}
{{- $free := list "labels" "annotations" "nodeSelector" "matchLabels" -}}
{{- $zero := list "readOnly" "hostNetwork" "hostPID" "hostIPC" "stdin" "stdinOnce" "tty" "initialDelaySeconds" "timeoutSeconds" "periodSeconds" "successThreshold" "failureThreshold" -}}
{{- $kept := list "name" "key" "storageClassName" "apiGroup" "service" "rayStartParams" -}}
{{- if kindIs "slice" . -}}
{{- range . }}{{ include "florence.asWritten" . }}{{ end -}}
{{- else if kindIs "map" . -}}
{{- $object := . -}}
{{- range $key, $value := $object -}}
{{- if or (kindIs "invalid" $value) (and (empty $value) (has $key $zero)) -}}
{{- $_ := unset $object $key -}}
{{- else if and (kindIs "map" $value) (has $key (list "limits" "requests")) -}}
{{- range $resource, $amount := $value }}{{ $_ := set $value $resource (include "florence.quantity" $amount) }}{{ end -}}
{{- if not $value }}{{ $_ := unset $object $key }}{{ end -}}
{{- else if has $key (list "sizeLimit" "divisor") -}}
{{- $_ := set $object $key (include "florence.quantity" $value) -}}
{{- else if and (empty $value) (not (has $key $kept)) (or (kindIs "string" $value) (kindIs "slice" $value) (has $key $free)) -}}
{{- $_ := unset $object $key -}}
{{- else if not (has $key $free) -}}
{{- include "florence.asWritten" $value -}}
{{- end -}}
{{- if has $key (list "containers" "initContainers") -}}
{{- range $value -}}
{{- if not (hasKey . "resources") }}{{ $_ := set . "resources" dict }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity as Kubernetes writes it: text, with the largest suffix that leaves a whole number. */}}
{{- define "florence.quantity" -}}
{{- $text := toString . -}}
{{- if kindIs "float64" . }}{{ if eq (floor .) . }}{{ $text = int64 . | toString }}{{ end }}{{ end -}}
{{- $suffix := regexFind "([KMGTPE]i|[numkMGTPE])?$" $text -}}
{{- $number := trimSuffix $suffix $text -}}
{{- if not (regexMatch "^[0-9]+([.][0-9]+)?$" $number) -}}
{{ $text }}
{{- else -}}
{{- $part := regexFind "[.][0-9]+$" $number | trimPrefix "." -}}
{{- $digits := regexReplaceAll "^0+" (replace "." "" $number) "" | default "0" | int64 -}}
{{- $binary := list "" "Ki" "Mi" "Gi" "Ti" "Pi" "Ei" -}}
{{- $decimal := list "n" "u" "m" "" "k" "M" "G" "T" "P" "E" -}}
{{- $ending := "" -}}
{{- if has $suffix (rest $binary) -}}
{{- range $unit := rest $binary -}}
{{- if eq $ending "" }}{{ $digits = mul $digits 1024 }}{{ end -}}
{{- if eq $unit $suffix }}{{ $ending = $unit }}{{ end -}}
{{- end -}}
{{- range until (len $part) }}{{ $digits = div $digits 10 }}{{ end -}}
{{- $ending = "" -}}
{{- range $unit := rest $binary -}}
{{- if and $digits (eq (mod $digits 1024) 0) }}{{ $digits = div $digits 1024 }}{{ $ending = $unit }}{{ end -}}
{{- end -}}
{{- printf "%d%s" $digits $ending -}}
{{- else -}}
{{- $power := 0 -}}
{{- range $place, $unit := $decimal }}{{ if eq $unit $suffix }}{{ $power = sub (mul 3 $place) (len $part) }}{{ end }}{{ end -}}
{{- range until 3 }}{{ if mod $power 3 }}{{ $digits = mul $digits 10 }}{{ $power = sub $power 1 }}{{ end }}{{ end -}}
{{- range until 9 -}}
{{- if and $digits (eq (mod $digits 1000) 0) (lt $power 27) }}{{ $digits = div $digits 1000 }}{{ $power = add $power 3 }}{{ end -}}
{{- end -}}
{{- printf "%d%s" $digits (ternary (index $decimal (div $power 3 | int)) "" (ne $digits 0)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
