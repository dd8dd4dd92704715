{{/* Names have at most 52 characters: the longest suffix is "-rendezvous", and labels allow 63 characters. */}}
{{- define "torchrun-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "torchrun-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "torchrun-operator.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "torchrun-operator.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "torchrun-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "torchrun-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "torchrun-operator.labels" -}}
{{ include "torchrun-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "torchrun-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "torchrun-operator.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: set the name of the service account, or set serviceAccount.create to true" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "torchrun-operator.keySecretName" -}}
{{- .Values.rendezvousKey.existingSecret | default (printf "%s-rendezvous" (include "torchrun-operator.fullname" .)) -}}
{{- end }}

{{/* Permissions of the operator in each namespace that it manages: exactly the calls that it makes. */}}
{{- define "torchrun-operator.rules" -}}
- apiGroups: [torchrun.dev]
  resources: [torchrunjobs]
  verbs: [get, list, watch, delete]
- apiGroups: [torchrun.dev]
  resources: [torchrunjobs/status]
  verbs: [patch]
# Needed for owner references if the admission plugin OwnerReferencesPermissionEnforcement is enabled.
- apiGroups: [torchrun.dev]
  resources: [torchrunjobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
# The logs of pods whose workers failed, for the status of the job.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# The garbage collector deletes these together with the job; the operator those of a backend that the job left.
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, create, patch, delete]
# Claims belong to their users once they exist.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
# It lists the policies of others, and deletes its own where spec.networkPolicy is false.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, create, patch, delete]
# So that the resources of the rendezvous pod fit.
- apiGroups: [""]
  resources: [limitranges]
  verbs: [list]
# The operator records events of jobs. The events of a pod that waits say which volume cannot be mounted.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end }}

{{/*
A lost Kubernetes node keeps its operator for 30 s, not for the 300 s that Kubernetes adds by default: nothing repairs
jobs in the meantime. Tolerations of the same taints in the values take precedence.
*/}}
{{- define "torchrun-operator.tolerations" -}}
{{- $tolerations := .Values.tolerations -}}
{{- range $key := list "node.kubernetes.io/not-ready" "node.kubernetes.io/unreachable" -}}
{{- $given := false -}}
{{- range $.Values.tolerations -}}
{{- if and (eq (.key | default $key) $key) (eq (.effect | default "NoExecute") "NoExecute") -}}
{{- $given = true -}}
{{- end -}}
{{- end -}}
{{- if not $given -}}
{{- $tolerations = append $tolerations (dict "key" $key "operator" "Exists" "effect" "NoExecute" "tolerationSeconds" 30) -}}
{{- end -}}
{{- end -}}
{{- toYaml $tolerations -}}
{{- end }}
