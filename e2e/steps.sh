# How the scripts tell what they do and how far they are. Sourced, never run.
# shellcheck shell=bash disable=SC2034

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
WORK=$TOP/target/e2e
CACHE=${SANDGLASS_E2E_CACHE:-$HOME/.cache/sandglass-e2e}
export CARGO_TERM_COLOR=never
# What e2e/build-binaries built.
STATIC=${CARGO_TARGET_DIR:-$TOP/target}/static/x86_64-unknown-linux-gnu
STATIC_SANDGLASS=$STATIC/${SANDGLASS_PROFILE:-e2e}/sandglass

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
	BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' RED=$'\e[31m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
	BOLD='' DIM='' GREEN='' RED='' YELLOW='' PLAIN=''
fi

STEP=0 STEPS=0 STEP_LOG='' STEP_PID=''

die() {
	printf '%s%s: %s%s\n' "$RED" "$(basename "$0")" "$*" "$PLAIN" >&2
	exit 1
}

since() { echo $((SECONDS - $1)); } # SECONDS-THEN

# Seconds after which a step is taken for stuck: it is ended, and what its processes waited for is in its log.
STEP_LIMIT=${STEP_LIMIT:-2700}

# Runs a command with its output in a log, and ends the script when it fails: whatever `set -e` is where it was called. Says what is done, every half minute that it still goes on, and how it ended;
# the log's end is shown only when it failed.
step() { # TITLE COMMAND...
	local title=$1 began=$SECONDS heard=$SECONDS pid code=0 stuck='' all
	shift
	STEP=$((STEP + 1))
	mkdir -p "$WORK/log"
	STEP_LOG=$WORK/log/$(printf %02d "$STEP")-$(tr -cs 'a-zA-Z0-9\n' - <<<"$title" | cut -c1-40 | sed 's/-*$//').log
	printf '%s[%d/%d]%s %s\n' "$BOLD" "$STEP" "$STEPS" "$PLAIN" "$title"
	set -m # a process group of its own: all of it can be ended
	"$@" >"$STEP_LOG" 2>&1 </dev/null &
	set +m
	pid=$! STEP_PID=$!
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		if [ "$(since "$heard")" -ge 30 ]; then
			heard=$SECONDS
			printf '%s      %d s: %s%s\n' "$DIM" "$(since "$began")" "$(last_line "$STEP_LOG")" "$PLAIN"
		fi
		if [ -z "$stuck" ] && [ "$(since "$began")" -ge "$STEP_LIMIT" ]; then
			stuck=$SECONDS
			{ echo "stuck: not done after $STEP_LIMIT s (STEP_LIMIT). Its processes:"; what_waits "$pid"; } >>"$STEP_LOG" 2>&1
			mapfile -t all < <(below "$pid") # a script of steps has groups of its own below it
			kill -TERM -- "-$pid" 2>/dev/null || true # what cleans up may do so
		fi
		[ -z "$stuck" ] || [ "$(since "$stuck")" -lt 60 ] || kill -KILL "${all[@]}" 2>/dev/null || true
	done
	wait "$pid" || code=$?
	[ -z "$stuck" ] || [ "$code" != 0 ] || code=124 # ended, however politely
	STEP_PID=''
	if [ "$code" != 0 ]; then
		printf '%s      failed after %d s (exit status %d). The end of %s:%s\n' "$RED" "$(since "$began")" "$code" "${STEP_LOG#"$TOP/"}" "$PLAIN"
		tail -n "${STEP_LINES:-150}" "$STEP_LOG" | sed 's/^/      | /'
		exit "$code"
	fi
	printf '%s      done in %d s%s%s\n' "$GREEN" "$(since "$began")" "$PLAIN" "$(closing_words "$STEP_LOG")"
}

declare -A BEGUN=()

# Starts a program beside the steps that follow; `step TITLE joined NAME` waits for its end.
begin() { # NAME PROGRAM...
	local name=$1
	shift
	mkdir -p "$WORK/log"
	rm -f "$WORK/log/$name.ended"
	set -m
	# Told to end, it waits for the program, which may clean up.
	{ set +e; trap : TERM; "$@"; echo $? >"$WORK/log/$name.ends"; mv "$WORK/log/$name.ends" "$WORK/log/$name.ended"; } >"$WORK/log/$name.beside" 2>&1 </dev/null &
	set +m
	BEGUN[$name]=$!
}

# Its output so far and as it comes, and its exit status.
joined() { # NAME
	local log=$WORK/log/$1.beside ended=$WORK/log/$1.ended
	if [ -e "$ended" ]; then cat "$log"; else tail -n +1 -f --pid="${BEGUN[$1]}" "$log"; fi
	[ -e "$ended" ] || { echo "$1 was killed"; return 1; }
	return "$(cat "$ended")"
}

# A process and all below it, and what each of their threads waits for in the kernel.
what_waits() { # PID
	local pid task
	for pid in $(below "$1"); do
		printf '%s\n' "$(ps -o pid=,ppid=,etimes=,stat=,args= -p "$pid" | cut -c1-200)"
		for task in "/proc/$pid/task"/*; do
			printf '    %s %s in %s\n' "${task##*/}" "$(cat "$task/comm" 2>/dev/null)" "$(cat "$task/wchan" 2>/dev/null)"
		done
	done
}
below() { # PID
	local child
	echo "$1"
	for child in $(ps -o pid= --ppid "$1"); do below "$child"; done
}

# Ends the step that runs and what was begun beside it, with everything they started.
stop_step() {
	local name
	[ -z "$STEP_PID" ] || kill -TERM -- "-$STEP_PID" 2>/dev/null || true
	for name in "${!BEGUN[@]}"; do
		[ -e "$WORK/log/$name.ended" ] || kill -TERM -- "-${BEGUN[$name]}" 2>/dev/null || true
	done
	for name in "${!BEGUN[@]}"; do # what cleans up must not meet the next run
		[ ! -e "$WORK/log/$name.ended" ] || continue
		timeout 60 tail -f --pid="${BEGUN[$name]}" /dev/null || kill -KILL -- "-${BEGUN[$name]}" 2>/dev/null || true
	done
}
trap stop_step EXIT
trap 'exit 130' INT TERM

last_line() { tr '\r' '\n' <"$1" | sed 's/\x1b\[[0-9;]*m//g' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c1-140 || true; }

# What a test runner counted, of all the binaries that ran in one step.
closing_words() { # LOG
	awk '/^test result: / { passed += $4; failed += $6; ignored += $8; runs++ }
		/^admission: / { line = $0 }
		END { if (runs) printf ": %d passed, %d failed, %d ignored", passed, failed, ignored; else if (line) printf ": %s", substr(line, 12) }' "$1"
}

# Waits for a condition with a limit; says every five seconds what it waits for.
await() { # SECONDS WHAT COMMAND...
	local limit=$1 what=$2 began=$SECONDS said=$SECONDS
	shift 2
	until "$@" >/dev/null 2>&1; do
		if [ "$(since "$began")" -ge "$limit" ]; then
			printf '%s      waited %d s in vain for: %s%s\n' "$RED" "$limit" "$what" "$PLAIN" >&2
			return 1
		fi
		if [ "$(since "$said")" -ge 5 ]; then
			said=$SECONDS
			printf '%s      %d s: waiting for %s%s\n' "$DIM" "$(since "$began")" "$what" "$PLAIN"
		fi
		sleep 0.2
	done
}

enter() { "$TOP/e2e/cluster/enter" "$@"; }
k() { enter kubectl --request-timeout=20s "$@"; }

# How a story is told: its chapters, what is typed and shown, what that means.
chapter() { # TITLE
	STEP=$((STEP + 1))
	printf '%s[%d/%d]%s %s\n' "$BOLD" "$STEP" "$STEPS" "$PLAIN" "$1"
}
fact() { printf '      %s\n' "$*"; }
typed() { printf '      %s$ %s%s\n' "$YELLOW" "$*" "$PLAIN"; }
good() { printf '      %sok%s  %s\n' "$GREEN" "$PLAIN" "$*"; }
shown() { sed "s/^/      ${DIM}|${PLAIN} /"; }
