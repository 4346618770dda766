{{/*
The chart is the manifests: files/ holds them as they are in manifests/base and crds/, and the templates set into them what the values
say. A named template gets a list, its first item the root.
*/}}

{{/* The objects of one file, as {"items": […]}. A file that is not there, or cannot be read, ends the rendering. */}}
{{- define "sandglass.read" -}}
{{- $root := index . 0 -}}
{{- $path := index . 1 -}}
{{- $items := list -}}
{{- range regexSplit "(?m)^---$" ($root.Files.Get $path | required (printf "failed to read %s: the chart is not whole" $path)) -1 -}}
{{- $object := fromYaml . -}}
{{- if hasKey $object "Error" }}{{ fail (printf "failed to read %s: %s" $path $object.Error) }}{{ end -}}
{{- if $object }}{{ $items = append $items $object }}{{ end -}}
{{- end -}}
{{- toYaml (dict "items" $items) -}}
{{- end -}}

{{/* One object by its kind and name: root, path, kind, name. */}}
{{- define "sandglass.readOne" -}}
{{- $arguments := . -}}
{{- $found := dict -}}
{{- range (include "sandglass.read" (list (index . 0) (index . 1)) | fromYaml).items -}}
{{- if and (eq .kind (index $arguments 2)) (eq .metadata.name (index $arguments 3)) }}{{ $found = . }}{{ end -}}
{{- end -}}
{{- if not $found }}{{ fail (printf "failed to find %s %s in %s" (index . 2) (index . 3) (index . 1)) }}{{ end -}}
{{- toYaml $found -}}
{{- end -}}

{{/* Writes an object as a document, with the label that everything of Sandglass has. */}}
{{- define "sandglass.write" -}}
{{- $object := . -}}
{{- $labels := merge (dict "app.kubernetes.io/part-of" "sandglass") ($object.metadata.labels | default dict) -}}
{{- $_ := set $object.metadata "labels" $labels }}
---
{{ toYaml $object }}
{{- end -}}

{{/* Writes a file's objects as they are. */}}
{{- define "sandglass.copy" -}}
{{- range (include "sandglass.read" . | fromYaml).items }}{{ include "sandglass.write" . }}{{ end -}}
{{- end -}}

{{/* Sandglass' own image. */}}
{{- define "sandglass.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The file sandglass.yaml: the value `config`, and the image where it names none. */}}
{{- define "sandglass.configuration" -}}
{{- $configuration := deepCopy .Values.config -}}
{{- if not (dig "sessions" "agentImage" "" $configuration) -}}
{{- $_ := set $configuration "sessions" (merge (dict "agentImage" (include "sandglass.image" .)) ($configuration.sessions | default dict)) -}}
{{- end -}}
{{- toYaml $configuration -}}
{{- end -}}

{{/* Sets what all pods have in common into a workload: root, object, values. */}}
{{- define "sandglass.pods" -}}
{{- $root := index . 0 -}}
{{- $object := index . 1 -}}
{{- $values := index . 2 -}}
{{- $pod := $object.spec.template.spec -}}
{{- $container := first $pod.containers -}}
{{- $_ := set $container "image" (include "sandglass.image" $root) -}}
{{- $_ := set $container "imagePullPolicy" $root.Values.image.pullPolicy -}}
{{- with $values.resources }}{{ $_ := set $container "resources" . }}{{ end -}}
{{- with $values.readinessProbe }}{{ $_ := mergeOverwrite $container.readinessProbe . }}{{ end -}}
{{- with $root.Values.image.pullSecrets -}}
{{- $names := list -}}
{{- range . }}{{ $names = append $names (dict "name" .) }}{{ end -}}
{{- $_ := set $pod "imagePullSecrets" $names -}}
{{- end -}}
{{- range $name := list "nodeSelector" "affinity" "tolerations" -}}
{{- with index $values $name }}{{ $_ := set $pod $name . }}{{ end -}}
{{- end -}}
{{- with $values.podLabels }}{{ $_ := set $object.spec.template.metadata "labels" (merge $object.spec.template.metadata.labels .) }}{{ end -}}
{{- with $values.podAnnotations }}{{ $_ := set $object.spec.template.metadata "annotations" (deepCopy .) }}{{ end -}}
{{- toYaml $object -}}
{{- end -}}

{{/* Sets the values of a Deployment into it: root, object, values. A changed configuration restarts its pods. */}}
{{- define "sandglass.deployment" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- $object := include "sandglass.pods" . | fromYaml -}}
{{- $_ := set $object.spec "replicas" $values.replicas -}}
{{- $annotations := $object.spec.template.metadata.annotations | default dict -}}
{{- $_ := set $annotations "sandglass.dev/configuration" (include "sandglass.configuration" $root | sha256sum | trunc 16) -}}
{{- $_ := set $object.spec.template.metadata "annotations" $annotations -}}
{{- toYaml $object -}}
{{- end -}}
