#!/bin/sh
# shellcheck disable=SC3043,SC2016  # every sh of a build image has `local`; backticks of Markdown
# The step of the GitHub action: asks the runner for the OIDC token of the job, provisions, and tells in log, annotation, summary and outputs what became of it.
# The inputs come as SANDGLASS_…, see action.yml; the rest as every runner sets it.
set +x # a runner that shows each command shows no secret here
# shellcheck source-path=SCRIPTDIR source=provision.sh
. "$(dirname "$0")/provision.sh"

SUMMARY=${GITHUB_STEP_SUMMARY:-/dev/null} OUTPUT=${GITHUB_OUTPUT:-/dev/null}

# Text as the data of a workflow command. Others' text can neither end the line nor begin a command: the old form, ##[, is one anywhere in a line.
data() { # TEXT
	printf '%s\n' "$1" | sed 's/%/%25/g; s/##\[/# #[/g' | tr -d '\r' | {
		local line all=''
		while IFS= read -r line; do all="$all${all:+%0A}$line"; done
		printf '%s' "$all"
	}
}
quiet() { sed 's/##\[/# #[/g; s/^\([[:space:]]*\)::/\1: :/'; }
say() { printf '%s\n' "$*" | quiet; }
warn() { printf '::warning title=Sandglass::%s\n' "$(data "$*")"; }
mask() { printf '::add-mask::%s\n' "$(data "$1")"; }

# The runner gives tokens for an audience to jobs that may ask for one.
fresh_token() {
	local audience
	if [ -z "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ] || [ -z "${ACTIONS_ID_TOKEN_REQUEST_TOKEN:-}" ]; then
		fail 'this job may not ask for an OIDC token' 'Give the job the permission id-token: write (a pull request from a fork never has it).'
	fi
	audience=$(jq -rn 'env.SANDGLASS_AUDIENCE // "" | if . == "" then "sandglass" else . end | @uri')
	printf 'Authorization: Bearer %s\n' "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" >"$FOLDER/runner"
	call_patiently --header @"$FOLDER/runner" --header 'Accept: application/json' "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$audience"
	case $STATUS in
	200) ;;
	000) fail "the runner gave no OIDC token: $(trouble)" 'Run the job again; if it stays so, GitHub has a disturbance.' ;;
	*) fail "the runner gave no OIDC token: it answered $STATUS" 'Run the job again; if it stays so, GitHub has a disturbance.' ;;
	esac
	jq -r '.value | strings' "$FOLDER/answer" >"$FOLDER/token" 2>/dev/null || fail 'the runner gave no OIDC token: its answer is none'
	mask "$(cat "$FOLDER/token")"
	rm -f "$FOLDER/answer"
}

announce() {
	if [ "$OPEN" = true ]; then
		printf '::notice title=Sandglass::%s\n' "$(data "The build failed. Look into it until ${EXPIRES:-its TTL}:
$COMMAND")"
	else
		printf '::warning title=Sandglass::%s\n' "$(data "$(headline) $WHY${CURE:+
$CURE}")"
	fi
	block | quiet
	summarize >>"$SUMMARY"
	output >>"$OUTPUT"
}

# A value cannot end early and begin another: nobody can guess where it ends.
output() {
	local end
	end=sandglass-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	printf '%s<<%s\n%s\n%s\n' open "$end" "$OPEN" "$end" name "$end" "$NAME" "$end" command "$end" "$COMMAND" "$end" expires-at "$end" "$EXPIRES" "$end"
}

# Markdown. Command, host keys and names have no letter that could end a fence (see `understand`); everything else is escaped letter by letter.
summarize() {
	if [ "$OPEN" = true ]; then
		printf '### The build failed. Until %s you can look into it\n\n```console\n%s\n```\n\n' "$(moment)" "$COMMAND"
		if [ -s "$FOLDER/known_hosts" ]; then
			printf 'Host key, for `known_hosts`:\n\n```text\n'
			cat "$FOLDER/known_hosts"
			printf '```\n\n'
		fi
		printf '| | |\n|---|---|\n| ends | %s |\n| session | %s/%s, a fresh pod of the build'"'"'s image, recorded |\n' "$(moment)" "$NAMESPACE" "$NAME"
		[ -z "$STRIPPED" ] || printf '| left out of the environment | %s |\n' "$(markdown "$STRIPPED")"
		printf '\n'
		return 0
	fi
	printf '### %s\n\n%s\n\n' "$(headline | sed 's/:$//')" "$(markdown "$WHY")"
	if [ -s "${FOLDER:-/nowhere}/claims" ]; then
		printf 'The service looked at these claims:\n\n| claim | value |\n|---|---|\n'
		jq -r "$PLAIN"'to_entries[:40][] | "| \(.key | escaped) | \(.value | claim | escaped) |"' "$FOLDER/claims"
		printf '\n'
	fi
	[ -z "$CURE" ] || printf '%s\n' "$CURE" | while read -r line; do printf '%s\n\n' "$(markdown "$line")"; done
}

moment() { # 2026-01-02T03:04:05Z as people write it
	case $EXPIRES in ????-??-??T??:??:*Z) printf '%s %s UTC\n' "${EXPIRES%%T*}" "$(printf '%s' "${EXPIRES#*T}" | cut -c1-8)" ;; *) echo "${EXPIRES:-its TTL}" ;; esac
}

markdown() { # TEXT
	if command -v jq >/dev/null 2>&1; then printf '%s' "$1" | jq -Rrs "$PLAIN escaped"; else printf '%s' "$1" | tr -cd 'A-Za-z0-9 .,:-'; fi
}

[ -z "${SANDGLASS_WEBHOOK:-}" ] || mask "$SANDGLASS_WEBHOOK"
BUILD_COMMIT=${GITHUB_SHA:-} BUILD_WHAT="${GITHUB_REPOSITORY:-}, ${GITHUB_WORKFLOW:-} / ${SANDGLASS_JOB:-}"
BUILD_URL=${GITHUB_SERVER_URL:-}/${GITHUB_REPOSITORY:-}/actions/runs/${GITHUB_RUN_ID:-}/attempts/${GITHUB_RUN_ATTEMPT:-1}
BUILD_PULL_REQUEST=''
case ${GITHUB_REF:-} in refs/pull/*) BUILD_PULL_REQUEST=${GITHUB_REF#refs/pull/} BUILD_PULL_REQUEST=${BUILD_PULL_REQUEST%%/*} ;; esac
export BUILD_COMMIT BUILD_PULL_REQUEST BUILD_URL BUILD_WHAT

begin
if [ -n "${SANDGLASS_KEYS:-}" ]; then
	take_keys "${GITHUB_ACTOR:-ci}" "$SANDGLASS_KEYS"
elif [ -z "${SANDGLASS_PRINCIPALS:-}" ]; then
	fetch_keys "${GITHUB_SERVER_URL:-https://github.com}" "${GITHUB_ACTOR:-}" 'Add one at Settings, SSH and GPG keys, as an authentication key; or give keys in the input keys.'
fi
provision
