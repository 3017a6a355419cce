{{- define "lsp.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "lsp.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $given := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $given .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* What a selector can be made of: it must stay the same from version to version. */}}
{{- define "lsp.selector" -}}
app.kubernetes.io/name: {{ include "lsp.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Of node-cleanup's pods, as the original has it, since it cannot be changed. The DaemonSet's Service does not select them. */}}
{{- define "lsp.cleanup.selector" -}}
app.kubernetes.io/name: {{ include "lsp.cleanup.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "lsp.cleanup.labels" -}}
{{ include "lsp.cleanup.selector" . }}
app.kubernetes.io/component: node-cleanup-controller
{{- end }}

{{- define "lsp.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "lsp.selector" . }}
{{- end }}

{{- /* Of an object: (dict "top" $ "name" "x"), with "namespace" if it has one, more "labels", and its "own" in place of the
common ones. */}}
{{- define "lsp.metadata" -}}
name: {{ .name | quote }}
{{- with .namespace }}
namespace: {{ . | quote }}
{{- end }}
labels:
  {{- toYaml (merge dict (default dict .own) (include "lsp.labels" .top | fromYaml) (default dict .labels)) | nindent 2 }}
{{- end }}

{{- define "lsp.serviceAccount" -}}
{{- default (ternary (include "lsp.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- /* As the original cuts it off. A name of which nothing would be left is shortened before: it would be the DaemonSet's. */}}
{{- define "lsp.cleanup.name" -}}
{{- $full := include "lsp.fullname" . }}
{{- $name := printf "%s-node-cleanup-controller" $full | trunc 63 | trimSuffix "-" }}
{{- ternary (printf "%s-node-cleanup-controller" ($full | trunc 39 | trimSuffix "-")) $name (eq $name $full) }}
{{- end }}

{{- define "lsp.cleanup.serviceAccount" -}}
{{- with .Values.nodeCleanupController.serviceAccount }}
{{- default (ternary (include "lsp.cleanup.name" $) "default" .create) .name }}
{{- end }}
{{- end }}

{{- /* The image, from (dict "top" $ "image" "x" "key" "the value's name"). The original's own is refused: it would be started in our pod, as if nothing
had been changed. */}}
{{- define "lsp.image" -}}
{{- $image := tpl .image .top }}
{{- if regexMatch "^(registry[.]k8s[.]io|k8s[.]gcr[.]io|gcr[.]io|quay[.]io/external_storage)/(.*/)?local-volume-(provisioner|node-cleanup)[:@]" $image }}
{{- fail (printf "%s: %s is the original's program; set it to your image of local-pv-provisioner, e.g. --set %s=registry.example.com/local-pv-provisioner:%s" .key $image .key .top.Chart.AppVersion) }}
{{- end }}
{{- $image }}
{{- end }}

{{- /* A probe from (dict "given" map "default" map): the given fields over ours, and its handler in place of ours. */}}
{{- define "lsp.probe" -}}
{{- $default := .default }}
{{- range list "exec" "grpc" "httpGet" "tcpSocket" }}
{{- if hasKey $.given . }}
{{- $default = omit $default "httpGet" }}
{{- end }}
{{- end }}
{{- toYaml (merge dict .given $default) }}
{{- end }}

{{- /* References to Secrets, by name or as Kubernetes writes them. */}}
{{- define "lsp.pullSecrets" -}}
{{- range . }}
- name: {{ ternary . (get (ternary dict . (kindIs "string" .)) "name") (kindIs "string" .) }}
{{- end }}
{{- end }}

{{- /* The files of the config directory, in the original's dialect. */}}
{{- define "lsp.config" -}}
{{- if .Values.useNodeNameOnly }}
useNodeNameOnly: "true"
{{- end }}
{{- if .Values.useJobForCleaning }}
useJobForCleaning: "yes"
{{- end }}
{{- if .Values.setPVOwnerRef }}
setPVOwnerRef: "true"
{{- end }}
{{- if .Values.removeNodeNotReadyTaint }}
removeNodeNotReadyTaint: "true"
provisionerNotReadyNodeTaintKey: {{ .Values.provisionerNotReadyNodeTaintKey | quote }}
{{- end }}
{{- with .Values.minResyncPeriod }}
minResyncPeriod: {{ . | quote }}
{{- end }}
{{- with .Values.weakIdentity }}
weakIdentity: {{ . | quote }}
{{- end }}
{{- with .Values.tolerations }}
jobTolerations: |
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeLabels }}
nodeLabelsForPV: |
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.labelsForPV }}
{{- $labels := dict }}
{{- range $key, $value := . }}
{{- $_ := set $labels $key (toString $value) }}
{{- end }}
labelsForPV: |
  {{- toYaml $labels | nindent 2 }}
{{- end }}
{{- $map := dict }}
{{- range .Values.classes }}
{{- $name := required "classes: an entry has no name" .name }}
{{- $class := dict "hostDir" (required (printf "classes: %s has no hostDir" $name) .hostDir) "mountDir" (default .hostDir .mountDir) }}
{{- $entry := . }}
{{- range list "volumeMode" "accessMode" "fsType" "namePattern" "selector" }}
{{- if get $entry . }}
{{- $_ := set $class . (get $entry .) }}
{{- end }}
{{- end }}
{{- with .blockCleanerCommand }}
{{- $_ := set $class "blockCleanerCommand" (toStrings .) }}
{{- end }}
{{- $_ := set $map $name $class }}
{{- end }}
storageClassMap: |
  {{- toYaml $map | nindent 2 }}
{{- end }}
