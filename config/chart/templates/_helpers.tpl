{{/* A file of config, the same that kustomize applies, for the release's namespace. */}}
{{- define "netloss.file" -}}
{{- /* By placeholders: the release's namespace may itself contain the name that is replaced. */ -}}
{{ .root.Files.Get .path | replace ": netloss-system\n" ": QUOTED_NAMESPACE\n" | replace "netloss-system" "PLAIN_NAMESPACE" | replace "QUOTED_NAMESPACE" (printf "%q" .root.Release.Namespace) | replace "PLAIN_NAMESPACE" .root.Release.Namespace }}
{{- end }}

{{/* Left empty, the tag is that of the chart's release: a release is tagged v<version>. */}}
{{- define "netloss.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default (printf "v%s" .version) }}{{ end }}
{{- end }}

{{- define "netloss.controllerImage" -}}
{{ include "netloss.image" (merge (dict "version" .Chart.AppVersion) .Values.image) }}
{{- end }}

{{- define "netloss.agentImage" -}}
{{ include "netloss.image" (merge (dict "version" .Chart.AppVersion) .Values.agent.image) }}
{{- end }}

{{/* Whether it runs the experiments of all namespaces: then there are a webhook and policies, if they are wanted. */}}
{{- define "netloss.clusterWide" -}}
{{ if not .Values.watchNamespaces }}true{{ end }}
{{- end }}

{{- define "netloss.webhook" -}}
{{ if and .Values.webhook.enabled (include "netloss.clusterWide" .) }}true{{ end }}
{{- end }}

{{/* What each pod of the controller's image runs as: within the restricted Pod Security standard. */}}
{{- define "netloss.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "netloss.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* By which every command of the controller knows what it acts on. */}}
{{- define "netloss.env" -}}
- name: NETLOSS_AGENT_IMAGE
  valueFrom:
    configMapKeyRef:
      name: netloss-agent
      key: image
- name: NETLOSS_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: NETLOSS_POD
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
