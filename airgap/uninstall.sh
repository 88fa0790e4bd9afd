#!/bin/sh
# Removes what install.sh put there: all releases, the links to them, the systemd units.  Configuration, keys, trust
# roots and the store are the site's; they stay, and are named.
set -u
LC_ALL=C
export LC_ALL

usage='Usage: ./uninstall.sh [--prefix DIR] [--dry-run]

  --prefix DIR   what was installed with --prefix DIR; without it what was installed for the system, as root
  --dry-run      print each step and change nothing

Exit codes: 0 done, 1 other failure, 2 usage.'

refuse() {
    code=$1
    shift
    printf 'uninstall.sh: %s\n' "$*" >&2
    exit "$code"
}

prefix=
is_dry=no
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) [ $# -ge 2 ] && [ -n "$2" ] || refuse 2 '--prefix needs a folder'
            prefix=$2; shift 2 ;;
        --dry-run) is_dry=yes; shift ;;
        --help | -h) printf '%s\n' "$usage"; exit 0 ;;
        *) refuse 2 "unknown argument $1
$usage" ;;
    esac
done
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
    [ "$(id -u)" = 0 ] || refuse 2 'removing it from the system needs root; name your folder with --prefix DIR'
fi
lib=$prefix/lib/ampoule

step() {
    if [ "$is_dry" = yes ]; then
        printf 'would run: %s\n' "$*"
    else
        "$@" || refuse 1 "this step failed: $*; mend its cause and run uninstall.sh again"
    fi
}

# Removes a folder that is empty; what lies in one that is not is the site's.
remove_if_empty() {
    if [ -d "$1" ] && [ -z "$(ls -A -- "$1")" ]; then
        step rmdir -- "$1"
    fi
}

# What an interrupted installation or removal has left is removed as well.
if [ ! -d "$lib" ] && [ "$(readlink -- "$prefix/bin/ampoule" 2>/dev/null)" != ../lib/ampoule/current/bin/ampoule ]; then
    if [ "$is_system" = no ] || [ ! -f /etc/systemd/system/ampoule.service ]; then
        refuse 1 "nothing is installed in $prefix, so nothing was removed"
    fi
fi

if [ "$is_system" = yes ]; then
    if [ -d /run/systemd/system ] && [ -f /etc/systemd/system/ampoule.service ]; then
        step systemctl disable --now ampoule.service ampoule.socket
    fi
    # Every kind of unit that a release may bring; drop-ins in ampoule.service.d are the site's.
    for unit in /etc/systemd/system/ampoule.*; do
        [ -f "$unit" ] && step rm -f -- "$unit"
    done
    if [ -d /run/systemd/system ]; then
        step systemctl daemon-reload
    fi
fi
for link in "$prefix"/bin/ampoule*; do
    case $(readlink -- "$link" 2>/dev/null) in
        ../lib/ampoule/current/bin/*) step rm -f -- "$link" ;;
    esac
done
# The configuration that install.sh put there goes too, where nobody has changed it.
for release in "$lib"/*; do
    if cmp -s -- "$release/etc/ampoule.toml" "$etc/ampoule.toml"; then
        step rm -f -- "$etc/ampoule.toml"
        break
    fi
done
# The links first: a killed removal leaves a release that nothing names, and not a name without its release.
for link in "$lib/current" "$lib/previous" "$lib/.current.new" "$lib/.previous.new"; do
    [ -L "$link" ] && step rm -f -- "$link"
done
for folder in "$lib"/.staging.* "$lib"/*; do
    case ${folder##*/} in
        .staging.*) ;;
        *) [ -f "$folder/RELEASE" ] || continue ;;
    esac
    [ -d "$folder" ] && step rm -rf -- "$folder"
done
remove_if_empty "$lib"
remove_if_empty "$etc"
remove_if_empty "$state"
if [ "$is_system" = no ]; then
    for folder in "$prefix/lib" "$prefix/bin" "$prefix/etc" "$prefix/var/lib" "$prefix/var" "$prefix"; do
        remove_if_empty "$folder"
    done
fi

[ "$is_dry" = yes ] && echo 'this was a dry run: nothing was changed' && exit 0
echo "ampoule is removed from $prefix"
for folder in "$lib" "$etc" "$state"; do
    [ -d "$folder" ] && echo "left, because it is the site's: $folder"
done
if [ "$is_system" = yes ] && id ampoule >/dev/null 2>&1; then
    echo "left, because files may belong to it: the user ampoule (userdel ampoule removes it)"
fi
exit 0
