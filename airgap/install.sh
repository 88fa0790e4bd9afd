#!/bin/sh
# Installs the release in this folder beside the ones that are installed already, and switches to it in one step.
#
#   PREFIX/lib/ampoule/VERSION/       the whole release, so that `ampoule verify-self` can check it at any time
#   PREFIX/lib/ampoule/current        the release in use; `previous` is the one before
#   PREFIX/bin/ampoule*               links through `current`
#
# Killed at any point, it leaves the old release in use or the new one, and can be run again.
set -u
LC_ALL=C
export LC_ALL
umask 022

usage='Usage: ./install.sh --fingerprint HEX [--prefix DIR] [--dry-run]
       ./install.sh --rollback [--prefix DIR] [--dry-run]

  --fingerprint HEX  the SHA-256 of vendor.pub that your vendor told you by another way
  --prefix DIR       install below DIR, for one user; without it below /usr/local, for the system, as root:
                     then also the user ampoule, /etc/ampoule, /var/lib/ampoule and the systemd units
  --dry-run          print each step and change nothing
  --rollback         switch back to the release that was in use before

First every file is verified; if one is not what was signed, nothing is installed.
Exit codes: 0 done, 1 other failure, 2 usage, 11 the release is not what was signed.'

refuse() {
    code=$1
    shift
    printf 'install.sh: %s\n' "$*" >&2
    exit "$code"
}

prefix=
fingerprint=
is_dry=no
action=install
while [ $# -gt 0 ]; do
    case $1 in
        --prefix | --fingerprint)
            [ $# -ge 2 ] && [ -n "$2" ] || refuse 2 "$1 needs a value"
            if [ "$1" = --prefix ]; then prefix=$2; else fingerprint=$2; fi
            shift 2 ;;
        --dry-run) is_dry=yes; shift ;;
        --rollback) action=rollback; shift ;;
        --help | -h) printf '%s\n' "$usage"; exit 0 ;;
        *) refuse 2 "unknown argument $1
$usage" ;;
    esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P) || refuse 1 'cannot enter the folder that this script lies in'
if [ -n "$prefix" ]; then
    is_system=no
    case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
    prefix=${prefix%/}
    etc=$prefix/etc/ampoule
    state=$prefix/var/lib/ampoule
else
    is_system=yes
    prefix=/usr/local
    etc=/etc/ampoule
    state=/var/lib/ampoule
    [ "$(id -u)" = 0 ] || refuse 2 'installing for the system needs root; name a folder of your own with --prefix DIR'
fi
lib=$prefix/lib/ampoule
programs='ampoule ampoule-trainer ampoule-seal ampoule-conformance'

# Does a step, or says what it would be.
step() {
    if [ "$is_dry" = yes ]; then
        printf 'would run: %s\n' "$*"
    else
        "$@" || refuse 1 "this step failed: $*; mend its cause and run install.sh again"
    fi
}

# The version that a link of $lib names, or nothing.
version_of() {
    readlink -- "$lib/$1" 2>/dev/null
}

# Points the link $1 at the version $2 in one step: whoever looks sees the old one or the new one.
point() {
    step ln -sfn -- "$2" "$lib/.$1.new"
    step mv -fT -- "$lib/.$1.new" "$lib/$1"
}

# The units of the release in the folder $1.  A site changes them with drop-ins (systemctl edit), which this leaves alone.
install_units() {
    [ "$is_system" = yes ] && [ -d /etc/systemd/system ] || return 0
    for unit in "$1"/systemd/ampoule.*; do
        [ -f "$unit" ] && step install -m 0644 -- "$unit" "/etc/systemd/system/${unit##*/}"
    done
    if [ -d /run/systemd/system ]; then
        step systemctl daemon-reload
    fi
}

if [ "$action" = rollback ]; then
    current=$(version_of current)
    previous=$(version_of previous)
    if [ -z "$previous" ] || [ "$previous" = "$current" ] || [ ! -x "$lib/$previous/bin/ampoule" ]; then
        refuse 1 "there is no previous release below $lib to go back to; run install.sh of the one that you want"
    fi
    point current "$previous"
    point previous "$current"
    install_units "$lib/$previous"
    [ "$is_dry" = yes ] || echo "ampoule $previous is in use again, $current is kept; restart what is running"
    exit 0
fi

if [ -z "$fingerprint" ]; then
    sh "$here/verify.sh"
    refuse 2 'nothing was installed: run it again with --fingerprint HEX'
fi
sh "$here/verify.sh" --fingerprint "$fingerprint" || refuse $? 'nothing was installed'
version=$(sed -n '1s/^# ampoule release \([^ ]*\) .*/\1/p' "$here/RELEASE")

# What stands in the way is told before the first step.
for program in $programs; do
    link=$prefix/bin/$program
    if [ -e "$link" ] || [ -L "$link" ]; then
        [ "$(readlink -- "$link")" = "../lib/ampoule/current/bin/$program" ] ||
            refuse 1 "$link is there and is not ours: move it away; nothing was installed"
    fi
done
if [ -d "$lib/$version" ]; then
    sh "$lib/$version/verify.sh" --fingerprint "$fingerprint" >/dev/null ||
        refuse 11 "$lib/$version was installed before and has changed since; move it away and run install.sh again"
fi

if [ "$is_system" = yes ] && ! id ampoule >/dev/null 2>&1; then
    step useradd --system --user-group --no-create-home --home-dir "$state" --shell /usr/sbin/nologin ampoule
fi
step mkdir -p -- "$lib" "$prefix/bin" "$etc" "$state"
if [ ! -e "$etc/ampoule.toml" ] && [ ! -L "$etc/ampoule.toml" ]; then
    step install -m 0644 -- "$here/etc/ampoule.toml" "$etc/.ampoule.toml.new"
    step mv -fT -- "$etc/.ampoule.toml.new" "$etc/ampoule.toml"
fi

if [ ! -d "$lib/$version" ]; then
    # What is copied is verified again where it lies, and gets its name only then.
    step rm -rf -- "$lib/.staging"
    step cp -R -- "$here" "$lib/.staging"
    step chmod -R u=rwX,go=rX -- "$lib/.staging"
    [ "$is_system" = no ] || step chown -R 0:0 -- "$lib/.staging"
    if [ "$is_dry" = no ]; then
        sh "$lib/.staging/verify.sh" --fingerprint "$fingerprint" >/dev/null ||
            refuse 11 "the copy in $lib/.staging is not what was signed: is the disk full or broken?"
        sync
    fi
    step mv -T -- "$lib/.staging" "$lib/$version"
fi

was=$(version_of current)
if [ "$was" = "$version" ]; then
    is_in_use=yes
else
    is_in_use=no
    [ -z "$was" ] || point previous "$was"
    point current "$version"
fi
has_links=yes
for program in $programs; do
    if [ ! -L "$prefix/bin/$program" ]; then
        has_links=no
        step ln -s -- "../lib/ampoule/current/bin/$program" "$prefix/bin/$program"
    fi
done
[ "$is_in_use" = yes ] || install_units "$here"

if [ "$is_dry" = yes ]; then
    echo 'this was a dry run: nothing was changed'
elif [ "$is_in_use" = yes ] && [ "$has_links" = yes ]; then
    echo "ampoule $version is already installed in $prefix"
else
    echo "ampoule $version is installed in $prefix${was:+; $was is kept, --rollback goes back to it}"
    cat <<NEXT
Next:
    $prefix/bin/ampoule verify-self --fingerprint $fingerprint
    $prefix/bin/ampoule demo
    $prefix/bin/ampoule keys add alice --keys-file $etc/keys.jsonl
    edit $etc/ampoule.toml: name your trust root; then import and activate a bundle:
    $prefix/bin/ampoule import MODEL.bundle --store $state --trust-root $etc/root.json
    $prefix/bin/ampoule activate MODEL --store $state
NEXT
    if [ "$is_system" = yes ]; then
        echo '    systemctl enable --now ampoule'
    else
        echo "    $prefix/bin/ampoule serve --config $etc/ampoule.toml"
    fi
fi
