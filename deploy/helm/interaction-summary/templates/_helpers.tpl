{{/* Where the keys of the Secret are mounted. */}}
{{- define "interaction-summary.secretsDir" -}}
/etc/interaction-summary/secrets
{{- end -}}

{{/* Cut to 40 characters: with `-worker` and the hash of a revision it must fit in a label. */}}
{{- define "interaction-summary.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "interaction-summary.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "interaction-summary.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "interaction-summary.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/*
Labels that select pods: list of root and component; without a component, all pods of the release.
Pods have no others: with the version of the chart they would all be replaced when only that changes.
*/}}
{{- define "interaction-summary.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- if gt (len .) 1 }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
{{- end -}}

{{- define "interaction-summary.labels" -}}
{{- $root := index . 0 -}}
{{ include "interaction-summary.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Values.image.tag | default $root.Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/*
Secret settings of a component, as lines `SETTING key`: list of root and component. The API does not
use Kafka, and only the API hashes keys.
*/}}
{{- define "interaction-summary.secrets" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $keys := $root.Values.secretKeys -}}
{{- $database := $keys.databaseUrl -}}
{{- if eq $component "migrate" -}}{{- $database = $keys.migrateDatabaseUrl | default $database -}}{{- end }}
DATABASE_URL {{ $database }}
{{- if ne $component "migrate" }}
REDIS_URL {{ $keys.redisUrl }}
{{- end }}
{{- if eq $component "api" }}
API_KEY_PEPPER {{ $keys.apiKeyPepper }}
{{- if $keys.apiKeyPepperPrevious }}
API_KEY_PEPPER_PREVIOUS {{ $keys.apiKeyPepperPrevious }}
{{- end }}
{{- else if $keys.kafkaSaslPassword }}
KAFKA_SASL_PASSWORD {{ $keys.kafkaSaslPassword }}
{{- end }}
{{- end -}}

{{/* Environment of a component: list of root, component and values. */}}
{{- define "interaction-summary.env" -}}
{{- $root := index . 0 -}}
{{- $settings := merge (deepCopy (index . 2).settings) (deepCopy $root.Values.settings) -}}
{{- if eq (index . 1) "api" -}}
{{- /* The password for Kafka is not there, and the settings refuse a protocol without it. */ -}}
{{- range $name, $_ := $settings -}}
{{- if regexMatch "^KAFKA_(SECURITY|SASL|SSL)_" $name -}}{{- $_ := unset $settings $name -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := $settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range include "interaction-summary.secrets" . | trim | splitList "\n" }}
{{- $parts := splitList " " . }}
- name: {{ index $parts 0 }}_FILE
  value: {{ include "interaction-summary.secretsDir" $root }}/{{ index $parts 1 }}
{{- end }}
{{- end -}}

{{/* Container's image, security and mounts: root. */}}
{{- define "interaction-summary.container" -}}
image: {{ include "interaction-summary.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - name: secrets
    mountPath: {{ include "interaction-summary.secretsDir" . }}
    readOnly: true
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{/* What all pods have besides their container: list of root, component and values. */}}
{{- define "interaction-summary.pod" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
automountServiceAccountToken: false
# The variables that Kubernetes would add for each Service are named like settings: API_PORT for a
# Service `api`.
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: {{ toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: secrets
    secret:
      secretName: {{ $root.Values.existingSecret | quote }}
      defaultMode: 0440
      items:
        {{- range include "interaction-summary.secrets" . | trim | splitList "\n" }}
        {{- $key := index (splitList " " .) 1 }}
        - {key: {{ $key | quote }}, path: {{ $key | quote }}}
        {{- end }}
        {{- range $root.Values.secretKeys.files }}
        - {key: {{ . | quote }}, path: {{ . | quote }}}
        {{- end }}
  # The only place where the program may write.
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
{{- end -}}

{{- define "interaction-summary.topologySpreadConstraints" -}}
{{- $values := index . 2 -}}
topologySpreadConstraints:
{{- if $values.topologySpreadConstraints }}
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "interaction-summary.selectorLabels" (list (index $ 0) (index $ 1)) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Rule of an egress: peers and ports. No peers: every address. */}}
{{- define "interaction-summary.egress" -}}
- ports:
    {{- range .ports }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
  {{- with .to }}
  to: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "interaction-summary.egressDns" -}}
- ports:
    {{- range .ports }}
    - {port: {{ int . }}, protocol: UDP}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
  {{- with .to }}
  to: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* minAvailable, if given, replaces maxUnavailable: a budget has one of them. */}}
{{- define "interaction-summary.budget" -}}
{{- if kindIs "invalid" .minAvailable -}}
maxUnavailable: {{ .maxUnavailable }}
{{- else -}}
minAvailable: {{ .minAvailable }}
{{- end -}}
{{- end -}}
