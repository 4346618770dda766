# shellcheck shell=sh disable=SC3043  # every sh of a build image has `local`
# The end of a GitLab job that failed: provisions with the job's ID token and tells in the log what became of it. It stands in the component behind ../github-action/provision.sh
# (`e2e/doors/github template` puts both there), and runs in the job's own image.

say() { printf '%s\n' "$*"; }
warn() { printf '\033[33mSandglass: %s\033[0m\n' "$*"; }

# The one the job was given; there is no other.
fresh_token() {
	[ -z "${SENT:-}" ] || fail "the job's ID token is over" 'Give less time in the input timeout.'
	[ -n "${SANDGLASS_ID_TOKEN:-}" ] || fail 'this job has no ID token' 'Does the job extend .sandglass-debug, and does nothing take the place of its id_tokens?'
	SENT=true
	printf '%s' "$SANDGLASS_ID_TOKEN" >"$FOLDER/token"
}

announce() {
	local colour='\033[1;33m'
	[ "$OPEN" != true ] || colour='\033[1;32m'
	# shellcheck disable=SC2059  # a colour
	printf "$colour"
	block
	printf '\033[0m'
}

failed_job() {
	SANDGLASS_IMAGE=${SANDGLASS_IMAGE:-${CI_JOB_IMAGE:-}} SANDGLASS_JOB=${CI_JOB_NAME:-}
	BUILD_COMMIT=${CI_COMMIT_SHA:-} BUILD_PULL_REQUEST=${CI_MERGE_REQUEST_IID:-} BUILD_URL=${CI_JOB_URL:-} BUILD_WHAT="${CI_PROJECT_PATH:-}, ${CI_JOB_NAME:-}"
	export SANDGLASS_IMAGE SANDGLASS_JOB BUILD_COMMIT BUILD_PULL_REQUEST BUILD_URL BUILD_WHAT
	begin
	if [ -n "${SANDGLASS_KEYS:-}" ]; then
		take_keys "${GITLAB_USER_LOGIN:-ci}" "$SANDGLASS_KEYS"
	elif [ -z "${SANDGLASS_PRINCIPALS:-}" ]; then
		fetch_keys "${CI_SERVER_URL:-https://gitlab.com}" "${GITLAB_USER_LOGIN:-}" 'Add one at Preferences, SSH keys; or give keys in the variable SANDGLASS_KEYS of the job.'
	fi
	provision
}

[ "${CI_JOB_STATUS:-}" != failed ] || failed_job
