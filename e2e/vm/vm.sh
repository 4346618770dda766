# What build, vm and hypervisor share. Sourced, never run.
# shellcheck shell=bash disable=SC2034,SC2164

OWN=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../cluster/cluster.sh
. "$OWN/../cluster/cluster.sh"

BUILT=$CACHE/vm # vmlinuz, initrd.gz, sshd and its libraries, made by `build`
VM=$ST/vm
VM_ID=devvm
VM_IP=10.244.0.250

# What the built files depend on.
stamp() { cat "$OWN/build" "$OWN/guest-init" "$OWN/guest-sshd" | sha256sum; }
built() { [ -e "$BUILT/initrd.gz" ] && [ "$(cat "$BUILT/stamp" 2>/dev/null)" = "$(stamp)" ]; }

need_cluster() {
	! external_cluster || die "KUBECONFIG_E2E is set: the machine belongs into the network of the cluster that $HERE/up starts; unset it"
	need_root
	check_state_folder
	[ -e "$ST/net" ] || die "no cluster is up under $ST: run $HERE/up"
}

# Nothing of the caller's stays open in it, nor its settings. It remembers itself, and has the lock until then: whenever this
# script is killed, the next one knows of it.
launch() { # NAME COMMAND...
	local name=$1
	shift
	(
		cd "$VM"
		pid=$BASHPID
		echo "$pid $(start_time "$pid")" >"$VM/$name.new"
		mv "$VM/$name.new" "$ST/pids/$name"
		exec 9<&- >"$ST/log/$name.log" 2>&1 </dev/null
		exec setsid nsenter --net="$ST/net" env -i PATH="$TOOL_PATH" HOME=/ LC_ALL=C.UTF-8 "$@"
	) &
	until running "$name" || ! kill -0 $! 2>/dev/null; do sleep 0.01; done
}

end_process() { # NAME
	local limit=$((SECONDS + 20)) pid
	while running "$1"; do
		read -r pid _ <"$ST/pids/$1"
		kill -KILL "$pid" 2>/dev/null || true
		[ "$SECONDS" -lt "$limit" ] || die "the process $pid ($1) does not end"
		sleep 0.05
	done
	rm -f "$ST/pids/$1"
}

make_key() { # FILE COMMENT
	[ ! -e "$1.pub" ] || return 0
	rm -f "$1"
	ssh-keygen -q -t ed25519 -N '' -C "$2" -f "$1" 9<&-
}

greets() { # IP PORT: an SSH server says its name within a second
	# shellcheck disable=SC2016  # for the inner shell
	in_net timeout 1 bash -c 'exec 3<>"/dev/tcp/$0/$1" && read -r line <&3 && [[ $line == SSH-2.0-* ]]' "$1" "$2" 9<&- 2>/dev/null
}

fail_with_log() { # FILE MESSAGE
	printf 'the last lines of %s:\n' "$1" >&2
	tail -n 20 "$1" | cut -c1-300 >&2
	die "$2"
}
