# Sourced by the other scripts.

set -eu
umask 022

root=$(cd "$(dirname "$0")/.." && pwd -P)
sub=$root/subprojects

say() { echo "== $*" >&2; }
die() { echo "qemu-snap: $*" >&2; exit 1; }

# Only one process at a time changes subprojects/.
lock()
{
    mkdir -p "$sub"
    exec 9>"$sub/.lock"
    flock 9
}

# quietly WHAT COMMAND...: print the output only if the command fails.
quietly()
{
    what=$1; shift
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        die "$what failed"
    fi
    rm -f "$log"
}

# apt with our own package lists: the machine's Debian archive, with suites
# that a stock machine does not have. The archive's address comes from /etc/apt,
# where nothing changes.
apt=$sub/apt
apt_run()
{
    DEBIAN_FRONTEND=noninteractive $sudo "$@" -q \
        -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$apt/sources" \
        -o Dir::State::Lists="$apt/lists" -o Acquire::Languages=none \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=false \
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300
}
apt_get() { apt_run apt-get -y "$@"; }
apt_cache() { apt_run apt-cache "$@"; }
sudo=

# need_root HINT: fail if packages cannot be installed
need_root()
{
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null ||
        die "packages are missing; as root run: $1"
}

# Only for changes of the machine: all files in subprojects/ are the user's own.
apt_get_as_root()
{
    [ "$(id -u)" = 0 ] || sudo='sudo -n DEBIAN_FRONTEND=noninteractive'
    apt_get "$@"
    sudo=
}

apt_sources()
{
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
    # indextargets reads both formats of sources, deb822 and one-line
    own=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
              'Created-By: Packages' 2>/dev/null |
          awk -v c="$codename" '$3 == "main" && $2 ~ "^" c "(-updates|-security)?$" { print $1, $2 }')
    archive=$(echo "$own" | awk -v c="$codename" '$2 == c { print $1; exit }')
    [ -n "$archive" ] || die "no Debian archive among this machine's apt sources"

    key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e $key ] && key="[signed-by=$key] " || key=
    case ${apt##*/} in
    newer)
        for suite in trixie trixie-backports sid; do
            echo "deb $key$archive $suite main"
        done ;;
    newer-sources)
        echo "deb-src $key$archive sid main" ;;
    *)
        echo "$own" | sed "s|.*|deb $key& main|"
        echo "deb $key$archive bookworm main"
        echo "deb $key$archive bookworm-backports main"
        echo "deb-src $key$archive trixie main" ;;
    esac | sort -u
}

# Call this before the first apt_get.
apt_update()
{
    command -v apt-get >/dev/null || die "this needs Debian's apt-get"
    [ -z "$(find "$apt/updated" -mmin -60 2>/dev/null)" ] || return 0
    mkdir -p "$apt/sources" "$apt/lists/partial"
    sources=$(apt_sources)
    echo "$sources" >"$apt/sources/qemu-snap.list"
    say "updating package lists"
    quietly "apt-get update" apt_get -o APT::Update::Error-Mode=any update
    touch "$apt/updated"
}

# From here on, apt_get only knows newer releases of Debian. Their packages must
# not be installed on this one.
newer_debian() { apt=$sub/apt/newer; }
newer_sources() { apt=$sub/apt/newer-sources; }
