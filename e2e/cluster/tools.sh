# How upstream programs are built, each only when its sources or flags changed. Sourced by scripts that have sourced cluster.sh and
# say what they build:
#   TOOLS          name, files it makes, seconds a cold build takes on two cores, what it is
#   PACKAGES       Debian package, and a file or command that shows it is there
#   flags TOOL     one line per argument, the first is CGO_ENABLED
#   folder TOOL    where its sources are; nothing for none
#   make_tool TOOL leaves its files in $NEW
# shellcheck shell=bash

export GOTOOLCHAIN=local GOFLAGS=-mod=readonly
STAMPS=$CACHE/stamps
NEW=$CACHE/new

missing_packages() {
	local entry package proof
	for entry in "${PACKAGES[@]}"; do
		read -r package proof <<<"$entry"
		case $proof in
		/*) [ -e "$proof" ] || echo "$package" ;;
		*) command -v "$proof" >/dev/null || echo "$package" ;;
		esac
	done
}

apt_retry() { # one refresh of the package lists if the first try fails
	"$@" && return 0
	apt-get -q update >&2 && "$@"
}

install_packages() {
	local missing
	missing=$(missing_packages | xargs)
	[ -n "$missing" ] || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		die "missing: $missing. Cure: apt-get install --no-install-recommends $missing (as root)"
	fi
	say "installing Debian packages: $missing"
	# shellcheck disable=SC2086  # a list of names
	DEBIAN_FRONTEND=noninteractive apt_retry apt-get -qy install --no-install-recommends $missing >"$CACHE/apt.log" 2>&1 ||
		die "apt-get could not install: $missing. See $CACHE/apt.log"
	missing=$(missing_packages | xargs)
	[ -z "$missing" ] || die "still missing after apt-get: $missing"
}

check_go() {
	command -v go >/dev/null || die "missing: go. Cure: install Go 1.26.6 or newer and put it in PATH"
	local version
	version=$(go env GOVERSION)
	printf '%s\n%s\n' go1.26.6 "${version%% *}" | sort -VC || die "go is $version, needed is 1.26.6 or newer"
}

sources_of() { # TOOL FOLDER: what its binary depends on, in one stream
	if [ -e "$2/$1.c" ]; then
		cat "$2/$1.c"
	else
		find "$2" -maxdepth 1 \( -name go.mod -o -name go.sum -o -name '*.go' \) | sort | xargs cat
	fi
}

stamp() { # TOOL: what its binary depends on
	local sources
	sources=$(folder "$1")
	{
		[ -z "$sources" ] || sources_of "$1" "$sources"
		flags "$1"
	} | sha256sum | cut -d' ' -f1
}

current() { # TOOL FILES
	local file
	for file in ${2//,/ }; do
		[ -x "$BIN/$file" ] || return 1
	done
	[ "$(cat "$STAMPS/$1" 2>/dev/null)" = "$(stamp "$1")" ]
}

go_build() { # TOOL PACKAGE...
	local tool=$1 arguments
	shift
	mapfile -t arguments < <(flags "$tool")
	(cd "$(folder "$tool")" && CGO_ENABLED=${arguments[0]} go build "${arguments[@]:1}" -o "$NEW/" "$@" 9<&-)
}

install_tool() { # TOOL FILES: moved in by rename, a running binary is never written to
	local file
	for file in ${2//,/ }; do
		[ -x "$NEW/$file" ] || die "$1: the build made no $file"
		mv -f "$NEW/$file" "$BIN/$file"
	done
	stamp "$1" >"$STAMPS/$1"
}

build_all() {
	local entry tool files cold what began k=0
	for entry in "${TOOLS[@]}"; do
		read -r tool files cold what <<<"$entry"
		k=$((k + 1))
		if current "$tool" "$files"; then
			continue
		fi
		[ "$cold" -le 5 ] || [ -n "${go_checked:-}" ] || { check_go; go_checked=yes; }
		say "$k of ${#TOOLS[@]}: $what (about $cold s when nothing is cached)"
		began=$EPOCHREALTIME
		make_tool "$tool" || die "$tool did not build; the compiler's message is above"
		install_tool "$tool" "$files"
		say "$k of ${#TOOLS[@]}: $tool done, took $(seconds "$began") s"
	done
}

# Builds what is not current, one after another, while nobody else does.
build_tools() {
	mkdir -p "$BIN" "$STAMPS" "$CACHE"
	lock_folder "$CACHE" 1800 "build"
	rm -rf "$NEW" && mkdir "$NEW"
	install_packages
	build_all
	rmdir "$NEW"
	flock -u 9 # other installations take the same lock
}
