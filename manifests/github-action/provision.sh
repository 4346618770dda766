# shellcheck shell=sh disable=SC3043  # every sh of a build image has `local`
# Asks the provisioning service for a session on the failed build, and waits until it is open. Needs curl and jq, and any sh.
#
# Sourced by a front end, which knows one CI system. It sets SANDGLASS_URL, SANDGLASS_IMAGE, SANDGLASS_JOB and, where wanted, SANDGLASS_KEYS, SANDGLASS_PRINCIPALS, SANDGLASS_ALLOW,
# SANDGLASS_ENV, SANDGLASS_WORKING_DIRECTORY, SANDGLASS_TTL, SANDGLASS_NETWORK, SANDGLASS_REASON, SANDGLASS_TIMEOUT, SANDGLASS_WEBHOOK, SANDGLASS_STRICT and BUILD_COMMIT, BUILD_PULL_REQUEST,
# BUILD_URL, BUILD_WHAT; has the functions `fresh_token` (writes the CI's token to $FOLDER/token), `say`, `warn` and `announce`; and calls `begin`, `take_keys` or `fetch_keys`, `provision`.
#
# Secrets are in files of a folder that only this user may read, never in an argument, and never in what is printed. Whatever happens, the exit status is 0, unless SANDGLASS_STRICT is `true`.

export LC_ALL=C # ranges of letters mean letters
FOLDER='' ADDRESS='' STATUS=000 LIMIT=120 DEADLINE=0
# What became of it, for `announce`. CURE says what to do when it isn't open. OVER: waiting longer changes nothing.
OPEN=false OVER=true WHY='' CURE='' NAME='' NAMESPACE='' COMMAND='' EXPIRES='' STRIPPED=''

# Text of others as one line, without anything that acts on a terminal or turns the writing round.
# shellcheck disable=SC2016  # of jq
PLAIN='def plain: (if type == "string" then . elif . == null then "" else tojson end)[0:600] | explode
	| map(if . < 32 or (. > 126 and . < 160) or (. > 8202 and . < 8208) or (. > 8231 and . < 8239) or (. > 8293 and . < 8298) or . == 65279 then 32 else . end) | implode;
def claim: if . == null then "(not in the token)" else plain end;
def escaped: plain | explode | map(if . > 127 or . == 32 or (. > 47 and . < 58) or (. > 64 and . < 91) or (. > 96 and . < 123) then [.] | implode else "&#\(.);" end) | add // "";'

begin() {
	local program missing=''
	umask 077
	for program in curl jq; do command -v "$program" >/dev/null 2>&1 || missing="$missing $program"; done
	[ -z "$missing" ] || fail "missing in the place where this runs:$missing" 'Install it in an earlier step, or use an image that has it.'
	FOLDER=$(mktemp -d "${RUNNER_TEMP:-${TMPDIR:-/tmp}}/sandglass.XXXXXX") || fail 'failed to make a temporary folder' 'Is the disk full?'
	trap 'rm -rf "$FOLDER"' EXIT
	trap 'exit 143' INT TERM HUP
	: >"$FOLDER/keys"
	: >"$FOLDER/known_hosts"
	ADDRESS=$(address "${SANDGLASS_URL:-}") || fail 'the input url is not an address of a provisioning service' 'Give its https address (http only for this machine itself), without user, ? and #.'
	LIMIT=$(seconds "${SANDGLASS_TIMEOUT:-2m}") || fail 'the input timeout is not a time' 'Give 90s, 2m or at most 1h.'
	DEADLINE=$(($(date +%s) + LIMIT))
	[ -n "${SANDGLASS_IMAGE:-}" ] || fail 'the image of the build is not given' "Set the input image to what the job runs in: a CI system does not tell."
}

# The token opens sessions: in the clear it goes to this machine only.
address() { # URL
	case $1 in *[!A-Za-z0-9._~:/%-]*) return 1 ;; esac
	case $1 in
	https://[A-Za-z0-9]* | http://127.0.0.1 | http://127.0.0.1[:/]* | http://localhost | http://localhost[:/]*) printf '%s\n' "${1%/}" ;;
	*) return 1 ;;
	esac
}

seconds() { # TIME: 90, 90s, 2m, 1h
	local number
	number=${1%[smh]}
	case $number in '' | *[!0-9]* | ?????*) return 1 ;; esac
	while :; do case $number in 0?*) number=${number#0} ;; *) break ;; esac; done # not octal
	case $1 in *m) number=$((number * 60)) ;; *h) number=$((number * 3600)) ;; esac
	[ "$number" -ge 1 ] && [ "$number" -le 3600 ] && printf '%s\n' "$number"
}

left() { echo $((DEADLINE - $(date +%s))); }

# --- how it ends --------------------------------------------------------------------------------

finish() {
	announce
	notify_chat
	[ "${SANDGLASS_STRICT:-false}" = true ] && [ "$OPEN" != true ] && exit 1
	exit 0
}

fail() { # WHY [CURE]
	WHY=$1 CURE=${2:-}
	finish
}

# What the log shows, in the words of `sandglass ci open`.
block() {
	printf '┌─ Sandglass ───────────────────────────────────────────────────────────────────\n'
	{
		if [ "$OPEN" = true ]; then
			printf 'The build failed. Until the session ends you can look into it:\n\n    %s\n\n' "$COMMAND"
			sed 's/^/host key  /' "$FOLDER/known_hosts"
			printf 'ends      %s\n' "${EXPIRES:-at its TTL}"
			[ -z "$STRIPPED" ] || printf 'left out  %s\n' "$STRIPPED"
			printf "session   %s/%s: a fresh pod of the build's image, recorded\n" "$NAMESPACE" "$NAME"
		else
			printf '%s\n\n    %s\n' "$(headline)" "$WHY"
			[ ! -s "${FOLDER:-/nowhere}/claims" ] || jq -r "$PLAIN"'to_entries[:40][] | "    \(.key | plain): \(.value | claim)"' "$FOLDER/claims"
			[ -z "$CURE" ] || printf '\n%s\n' "$CURE"
		fi
	} | sed 's/^/│ /; s/ *$//'
	printf '└──────────────────────────────────────────────────────────────────────────────\n'
}

headline() {
	if [ -z "$NAME" ]; then
		echo 'The build failed, and no session could be opened for it:'
	elif [ "$OVER" = true ]; then
		echo 'The build failed, and its session is not open:'
	else
		echo 'The build failed, and its session has not opened yet:'
	fi
}

# A message to a chat that takes {"text": …}. Its address is a secret: curl reads it from a file, and what curl says is not shown.
notify_chat() {
	[ -n "${SANDGLASS_WEBHOOK:-}" ] && [ -n "$FOLDER" ] || return 0
	case $SANDGLASS_WEBHOOK in
	*[!A-Za-z0-9._~:/?\&=%+,@-]*) warn 'the chat was not told: the webhook is not an address'; return 0 ;;
	https://?* | http://127.0.0.1[:/]* | http://localhost[:/]*) ;;
	*) warn 'the chat was not told: the webhook is not an https address'; return 0 ;;
	esac
	chat_text | jq -Rs "$PLAIN"'{text: (split("\n") | map(plain | split("&") | join("&amp;") | split("<") | join("&lt;") | split(">") | join("&gt;")) | join("\n") | rtrimstr("\n"))}' >"$FOLDER/chat"
	DEADLINE=$(($(date +%s) + 15)) # the limit is for the session
	printf 'url = "%s"\n' "$SANDGLASS_WEBHOOK" >"$FOLDER/chat-address"
	call --config "$FOLDER/chat-address" --header 'Content-Type: application/json' --data-binary @"$FOLDER/chat"
	case $STATUS in
	2??) ;;
	000) warn 'the chat was not told: its webhook did not answer' ;;
	*) warn "the chat was not told: its webhook answered $STATUS" ;;
	esac
}

chat_text() {
	printf '%s failed: %s\n' "${BUILD_WHAT:-a build}" "${BUILD_URL:-}"
	if [ "$OPEN" = true ]; then printf '%s\nends %s\n' "$COMMAND" "${EXPIRES:-at its TTL}"; else printf 'no session: %s\n' "$WHY"; fi
}

# --- requests -----------------------------------------------------------------------------------

# Sets STATUS: of the answer, 000 where there was none that is whole. The answer is in $FOLDER/answer, its header in $FOLDER/header, why there is none in $FOLDER/trouble.
call() { # CURL-ARGUMENT...
	local limit
	limit=$(left)
	[ "$limit" -le 15 ] || limit=15
	[ "$limit" -ge 1 ] || limit=1
	rm -f "$FOLDER/answer" "$FOLDER/header" "$FOLDER/trouble"
	# An answer that does not say its length is cut off as well, at a megabyte or two.
	STATUS=$(
		ulimit -f 2048 2>/dev/null
		exec curl --disable --silent --show-error --proto =http,https --max-redirs 0 --connect-timeout 5 --max-time "$limit" --max-filesize 262144 --header Expect: \
			--output "$FOLDER/answer" --dump-header "$FOLDER/header" --stderr "$FOLDER/trouble" --write-out '%{http_code}' "$@"
	) 2>/dev/null || STATUS=000
	[ -f "$FOLDER/answer" ] || : >"$FOLDER/answer"
	[ -f "$FOLDER/header" ] || : >"$FOLDER/header"
}

# Again while it is busy or not there, inside the limit.
call_patiently() { # CURL-ARGUMENT...
	local tries=0 pause
	while :; do
		call "$@"
		pause=2
		case $STATUS in
		429 | 503) pause=$(retry_after) ;;
		000 | 502 | 504)
			tries=$((tries + 1))
			[ "$tries" -lt 3 ] || return 0
			;;
		*) return 0 ;;
		esac
		[ "$pause" -lt "$(left)" ] || return 0
		sleep "$pause"
	done
}

retry_after() { # seconds, from 1
	local said
	said=$(tr -d '\r' <"$FOLDER/header" | sed -n 's/^[Rr][Ee][Tt][Rr][Yy]-[Aa][Ff][Tt][Ee][Rr]:[[:space:]]*0*\([1-9][0-9]\{0,5\}\)[[:space:]]*$/\1/p' | tail -n 1)
	echo "${said:-2}"
}

trouble() { # why curl got nothing, in its words
	[ -s "$FOLDER/trouble" ] || { echo 'the answer was cut off'; return 0; }
	sed -n '1s/^curl: ([0-9]*) //p' "$FOLDER/trouble" | tr -d '[:cntrl:]' | cut -c1-300
}

field() { # JQ-EXPRESSION
	jq -r "$PLAIN ($1) | plain" "$FOLDER/answer" 2>/dev/null || :
}

# --- public keys --------------------------------------------------------------------------------

take_keys() { # OWNER LINES
	printf '%s\n' "$2" >"$FOLDER/offered"
	keep_keys "$1"
}

# The public keys that a forge shows of a user.
fetch_keys() { # SERVER USER HOW-TO-ADD-ONE
	local server
	server=$(address "$1") || fail 'the address of the forge is not an https address' 'Give the public keys in the input keys.'
	case $2 in
	'' | *[!A-Za-z0-9._-]*) fail "whoever started this is no user with public keys" 'Give the public keys of those who may log in in the input keys.' ;;
	esac
	call_patiently "$server/$2.keys"
	case $STATUS in
	200) ;;
	000) fail "failed to fetch the public keys of $2 from $server: $(trouble)" 'Give them in the input keys.' ;;
	*) fail "failed to fetch the public keys of $2 from $server: it answered $STATUS" 'Give them in the input keys.' ;;
	esac
	mv "$FOLDER/answer" "$FOLDER/offered"
	keep_keys "$2"
	[ -s "$FOLDER/keys" ] || fail "$2 has no public key at $server" "$3"
}

# Keeps the lines that are public keys, at most 20, with whose they are in place of their comments.
keep_keys() { # OWNER
	local offered kept
	! grep -q -e 'PRIVATE KEY' "$FOLDER/offered" || fail 'the input keys holds a private key' 'Give the line of the .pub file, and replace this key: whoever can read the workflow can read it.'
	# shellcheck disable=SC2016  # of jq
	jq -Rrn --arg owner "$1" '[inputs | split("\r") | join("") | split(" ") | map(select(. != "")) | select(length >= 2)
		| select(.[0] as $kind | ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"] | index($kind))
		| select((.[1] | startswith("AAAA")) and (.[1] | length) < 3000 and (.[1] | explode | all((. > 47 and . < 58) or (. > 64 and . < 91) or (. > 96 and . < 123) or . == 43 or . == 47 or . == 61)))
		| "\(.[0]) \(.[1]) \($owner)"][:20][]' "$FOLDER/offered" >"$FOLDER/keys" 2>/dev/null || : >"$FOLDER/keys"
	offered=$(grep -c -v -e '^[[:space:]]*$' -e '^#' "$FOLDER/offered") || :
	kept=$(grep -c . "$FOLDER/keys") || :
	[ "$offered" -le "$kept" ] || warn "$((offered - kept)) of $offered lines of public keys were left out: no public key of OpenSSH without options, or more than 20"
}

# --- the session --------------------------------------------------------------------------------

provision() {
	[ -s "$FOLDER/keys" ] || [ -n "${SANDGLASS_PRINCIPALS:-}" ] || fail 'nobody could log in: the input keys holds no public key' 'Give the line of a .pub file, or leave keys out.'
	fresh_token
	bear_token
	make_request
	call_patiently --request POST --header @"$FOLDER/bearer" --header 'Content-Type: application/json' --header 'Accept: application/json' --data-binary @"$FOLDER/request" "$ADDRESS/v1/debugsessions"
	case $STATUS in 200 | 201) ;; *) refused ;; esac
	understand
	await_open
}

bear_token() {
	local token=''
	[ ! -f "$FOLDER/token" ] || token=$(head -c 16386 "$FOLDER/token")
	case $token in
	*[!A-Za-z0-9._-]*) fail 'what the CI gave as OIDC token is no token' ;;
	?*.?*.?*) ;;
	*) fail 'what the CI gave as OIDC token is no token' ;;
	esac
	[ ${#token} -le 16384 ] || fail 'what the CI gave as OIDC token is no token: it has more than 16 KiB'
	printf 'Authorization: Bearer %s\n' "$token" >"$FOLDER/bearer"
}

# Values of variables come out of this process's own environment, so that they stand in no argument.
make_request() {
	local name names=''
	for name in $(printf '%s' "${SANDGLASS_ENV:-}" | tr ',' ' '); do
		case $name in
		[0-9]* | *[!A-Za-z0-9_]*) warn 'a name in the input env is no name of a variable: it was left out'; continue ;;
		esac
		case $(printf '%s' "$name" | tr '[:lower:]' '[:upper:]') in
		*TOKEN* | *SECRET* | *PASS* | *CREDENTIAL* | *KEY* | *AUTH* | *COOKIE* | SANDGLASS_* | ACTIONS_*) warn "the variable $name was left out: its name looks like a secret's" ;;
		*) names="$names $name" ;;
		esac
	done
	# shellcheck disable=SC2016  # of jq
	jq -n --rawfile keys "$FOLDER/keys" --arg names "$names" 'def words: split(",") | join(" ") | split("\n") | join(" ") | split(" ") | map(select(. != ""));
		def given($name): env[$name] // "";
		{ image: given("SANDGLASS_IMAGE"), job: given("SANDGLASS_JOB"), authorizedKeys: ($keys | split("\n") | map(select(. != ""))),
		principals: (given("SANDGLASS_PRINCIPALS") | words), allow: (given("SANDGLASS_ALLOW") | words),
		env: [$names | words | unique[] | select(env[.] != null) | {name: ., value: env[.]}], workingDir: given("SANDGLASS_WORKING_DIRECTORY"), ttl: given("SANDGLASS_TTL"),
		reason: given("SANDGLASS_REASON"), network: given("SANDGLASS_NETWORK"), commit: given("BUILD_COMMIT"), pullRequest: given("BUILD_PULL_REQUEST"), url: given("BUILD_URL") }
		| with_entries(select(.value != "" and .value != []))' >"$FOLDER/request" || fail 'failed to write the request: is an input no text?'
}

# The service made none, or what answers is another.
refused() {
	local detail
	detail=$(field '(.detail // .title) | strings')
	jq -e '.claims | objects' "$FOLDER/answer" >"$FOLDER/claims" 2>/dev/null || rm -f "$FOLDER/claims"
	case $STATUS in
	000) fail "failed to reach the service at $ADDRESS: $(trouble)" 'Can the runner reach it? Its certificate must be of an authority that curl knows: CURL_CA_BUNDLE names others.' ;;
	[1235]??) [ -n "$detail" ] || fail "the service at $ADDRESS answered $STATUS and does not say why" ;;
	esac
	case $STATUS in
	401) CURE='Does the input audience match the audience of the issuer in the configuration of the service?' ;;
	403)
		CURE='Ask for what the rule allows, or let who runs Sandglass widen it: docs/provisioning.md.'
		[ ! -s "$FOLDER/claims" ] || CURE='Who runs Sandglass must add a rule for these claims, or widen one: docs/provisioning.md.'
		;;
	413 | 422) CURE='Mend the input that it names.' ;;
	429 | 503) CURE="It asked to wait $(retry_after) s, longer than the input timeout leaves. Run the job again later." ;;
	esac
	fail "the service refused ($STATUS): ${detail:-it does not say why}" "$CURE"
}

# Nothing of the answer is used that does not look like what it is: people copy it into their terminals.
understand() {
	NAMESPACE=$(field '.namespace | strings') NAME=$(field '.name | strings')
	if ! is_label "$NAMESPACE" || ! is_label "$NAME"; then
		NAMESPACE='' NAME=''
		fail "what answers at $ADDRESS is not the provisioning service" 'Check the input url.'
	fi
	COMMAND=$(field '.connection.command | strings')
	case $COMMAND in
	*[!A-Za-z0-9\ .@:_%-]*) COMMAND='' ;;
	'ssh '*) ;;
	*) COMMAND='' ;;
	esac
	jq -r '.connection.knownHosts // [] | arrays | .[:10][] | strings | select(length < 4000) | split(" ") | select(length == 3)
		| select(all(length > 0) and (map(explode) | (.[0] | all((. > 44 and . < 59 and . != 47) or (. > 63 and . < 94 and . != 92) or (. > 96 and . < 123) or . == 42 or . == 44))
			and (.[1] | all(. == 45 or . == 46 or . == 64 or (. > 47 and . < 58) or (. > 96 and . < 123)))
			and (.[2] | all(. == 43 or . == 61 or (. > 46 and . < 58) or (. > 64 and . < 91) or (. > 96 and . < 123))))) | join(" ")' "$FOLDER/answer" >"$FOLDER/known_hosts" 2>/dev/null || : >"$FOLDER/known_hosts"
	EXPIRES=$(field '.expiresAt | strings')
	case $EXPIRES in *[!0-9TZ:.+-]*) EXPIRES='' ;; esac
	STRIPPED=$(jq -r "$PLAIN"'.strippedEnv // [] | arrays | .[:50] | map(plain | select(. != "")) | join(", ")' "$FOLDER/answer" 2>/dev/null | cut -c1-2000) || :
	[ "$(field '.open == true')" = true ] && [ -n "$COMMAND" ] && OPEN=true || OPEN=false
	[ "$(field '.ended == true or .stalled == true')" = true ] && OVER=true || OVER=false
	WHY=$(field '.message | strings')
	[ -n "$WHY" ] || WHY=$(field '.reason | strings')
	[ -n "$WHY" ] || WHY='no controller has seen it yet'
}

is_label() {
	case $1 in '' | -* | *- | *[!a-z0-9-]*) return 1 ;; esac
	[ ${#1} -le 63 ]
}

await_open() {
	local said='' renewed=false pause
	until [ "$OPEN" = true ] || [ "$OVER" = true ]; do
		[ "$WHY" = "$said" ] || say "waiting: $WHY"
		said=$WHY pause=2
		if [ "$(left)" -le "$pause" ]; then
			WHY="it did not open within $LIMIT s: $WHY"
			break
		fi
		sleep "$pause"
		call --header @"$FOLDER/bearer" --header 'Accept: application/json' "$ADDRESS/v1/debugsessions/$NAMESPACE/$NAME"
		case $STATUS in
		200) understand ;;
		401) # tokens live for minutes
			[ "$renewed" = false ] || refused
			renewed=true
			fresh_token
			bear_token
			;;
		429) sleep "$(least "$(retry_after)" "$(left)")" ;;
		000 | 5??) ;; # it comes back, or the limit is reached
		*) refused ;;
		esac
	done
	if [ "$OPEN" != true ]; then
		CURE="What stands in the way: kubectl describe debugsession/$NAME -n $NAMESPACE"
		[ "$OVER" = true ] || CURE="It may still open: kubectl wait --for=condition=Open debugsession/$NAME -n $NAMESPACE --timeout=5m
$CURE"
	fi
	finish
}

least() { # A B, from 1
	local number
	number=$1
	[ "$number" -le "$2" ] || number=$2
	[ "$number" -ge 1 ] || number=1
	echo "$number"
}
