{{/* Names are cut at 52 characters: the longest suffix is "-rendezvous", and labels end at 63. */}}
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
{{- required "serviceAccount.name: name the account to use, or set serviceAccount.create to true" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "torchrun-operator.keySecretName" -}}
{{- .Values.rendezvousKey.existingSecret | default (printf "%s-rendezvous" (include "torchrun-operator.fullname" .)) -}}
{{- end }}

{{/* What the operator may do, in each namespace it looks after: what it really calls and nothing else. */}}
{{- define "torchrun-operator.rules" -}}
- apiGroups: [torchrun.dev]
  resources: [torchrunjobs]
  verbs: [get, list, watch]
- apiGroups: [torchrun.dev]
  resources: [torchrunjobs/status]
  verbs: [patch]
# Needed to own objects where the admission plugin OwnerReferencesPermissionEnforcement is on.
- apiGroups: [torchrun.dev]
  resources: [torchrunjobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
# The last lines of a pod whose workers failed, for the job's status to say why.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# Deleted by the garbage collector, with the job that owns them.
- apiGroups: [""]
  resources: [services, configmaps, persistentvolumeclaims]
  verbs: [get, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}
