# What build, up, down, enter, load and check-clean share: where things lie, how lines are
# printed, how a process is remembered so that exactly it can be ended later. Sourced, never run.
# shellcheck shell=bash disable=SC2034

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${SANDGLASS_E2E_CACHE:-$HOME/.cache/sandglass-e2e}
BIN=$CACHE/bin
ST=${SANDGLASS_E2E_STATE:-/var/lib/sandglass-e2e}
SOCK=$ST/containerd/containerd.sock
NODE_IP=10.244.0.1 # the bridge's address: node, apiserver and host-side servers at once
export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1

# Our own builds come first: containerd finds its shim, and tests find kubectl, through PATH.
TOOL_PATH=$BIN:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Settings of the whole machine (not of a network namespace) that a running node changes.
SYSCTLS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
	kernel.keys.root_maxkeys kernel.keys.root_maxbytes fs.inotify.max_user_instances)

# Written by kubelet, containerd, CNI, iptables and mount outside the state folder, whatever their settings say.
# The inner folders are named too: the outer ones may belong to a container runtime of the machine.
FIXED_PLACES=(/var/lib/kubelet/device-plugins /var/lib/kubelet /var/log/containers /var/lib/cni/results /var/lib/cni
	/run/containerd/s /run/containerd /run/xtables.lock /run/mount)

STARTED=$EPOCHREALTIME

seconds() { # SINCE: seconds from an earlier $EPOCHREALTIME, with one decimal
	awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'
}

say() { printf '[%5s s] %s\n' "$(seconds "$STARTED")" "$*"; }

die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

need_root() {
	[ "$(id -u)" = 0 ] || die "must run as root (network namespace, mounts, cgroups): use sudo -E $0"
}

# The lock is taken on the folder above, so that it outlives the state folder and leaves no file.
# File descriptor 9 is closed for everything that stays: the lock ends with the script.
lock_folder() { # FOLDER SECONDS WHAT
	exec 9<"$1"
	flock -w "$2" 9 || die "another $3 has been running for $2 s: wait for it to end"
}

check_state_folder() {
	case $ST in
	*[[:space:]]* | [!/]* | */) die "SANDGLASS_E2E_STATE must be an absolute path without blanks: $ST" ;;
	esac
	local folder
	folder=$(dirname "$ST")
	[ -d "$folder" ] || die "$folder does not exist: create it or set SANDGLASS_E2E_STATE"
	while [ "$folder" != / ]; do
		# Root of a pod in a user namespace is "other" here: it must be able to pass.
		[ $((8#$(stat -c %a "$folder") & 1)) = 1 ] ||
			die "$folder is closed to others (chmod o+x it, or set SANDGLASS_E2E_STATE to a folder elsewhere)"
		folder=$(dirname "$folder")
	done
}

in_net() { nsenter --net="$ST/net" env PATH="$TOOL_PATH" "$@"; }

admin_kubectl() { in_net kubectl --kubeconfig="$ST/admin.kubeconfig" --request-timeout=5s "$@"; }

# Field 22 of stat. The name before it may hold blanks and parentheses, so cut after its last one.
start_time() { # PID
	local line fields
	{ read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
	read -ra fields <<<"${line##*) }"
	[ "${fields[0]}" != Z ] || return 1 # a zombie has ended
	echo "${fields[19]}"
}

remember() { echo "$2 $(start_time "$2")" >"$ST/pids/$1"; } # NAME PID

running() { # NAME: is the very process still there, not another one under a reused id?
	local pid began
	{ read -r pid began <"$ST/pids/$1"; } 2>/dev/null || return 1
	[ "$(start_time "$pid")" = "$began" ]
}

external_cluster() { [ -n "${KUBECONFIG_E2E:-}" ]; }
