#!/bin/sh
# Installs the release in this folder beside the ones that are installed already, and switches to it in one step.
#
#   PREFIX/lib/ampoule/VERSION/       the whole release, so that `ampoule verify-self` can check it at any time
#   PREFIX/lib/ampoule/current        the release in use; `previous` is the one before
#   PREFIX/bin/ampoule*               links through `current`
#
# Killed at any point, it leaves the old release in use or the new one, and can be run again.  Everything that it puts
# anywhere comes from the copy in PREFIX/lib, which was verified where nobody else may write, and has rights that are
# fixed here, whatever those of the unpacked folder are.
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

# No $(dirname): it would lose line feeds at the end of the folder's name, and another folder be installed.
case $0 in
    /*) here=${0%/*} ;;
    */*) here=./${0%/*} ;;
    *) here=. ;;
esac
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

# Where the folder $1 lies, or would, as far as it is there, with every link followed.  The dot at the end keeps line
# feeds of a name.
place_of() {
    known=$1
    until [ -d "$known/" ]; do
        known=${known%/*}
    done
    case ${1#"$known"}/ in
        */../*) return 1 ;;
    esac
    ( CDPATH='' cd -P -- "$known/" && pwd -P && echo . )
}

if [ "$action" = install ]; then
    source=$(place_of "$here") || refuse 1 'cannot enter the folder that this script lies in'
    source=${source%??}
    for folder in "$prefix" "$lib"; do
        place=$(place_of "$folder") ||
            refuse 2 "$folder cannot be reached: name it by another path; nothing was installed"
        case ${place%??}/ in
            "$source"/*) refuse 2 "$folder lies in the unpacked release, which would be copied into itself: \
name a folder outside $source; nothing was installed" ;;
        esac
    done
fi
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

# The version of the release whose list is the file $1.
release_of() {
    sed -n '1s/^# ampoule release \([^ ]*\) .*/\1/p' "$1"
}

# Points the link $1 at the version $2 in one step: whoever looks sees the old one or the new one.
point() {
    step ln -sfn -- "$2" "$lib/.$1.new"
    step mv -fT -- "$lib/.$1.new" "$lib/$1"
}

# The units of the installed release $1, whose list is the file $2.  A site changes them with drop-ins (systemctl edit),
# which this leaves alone.
install_units() {
    [ "$is_system" = yes ] && [ -d /etc/systemd/system ] || return 0
    for unit in $(sed -n 's|^[0-9a-f]\{64\}  systemd/\(ampoule\.[a-z]*\)$|\1|p' "$2"); do
        step install -m 0644 -- "$lib/$1/systemd/$unit" "/etc/systemd/system/$unit"
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
    install_units "$previous" "$lib/$previous/RELEASE"
    [ "$is_dry" = yes ] || echo "ampoule $previous is in use again, $current is kept; restart what is running"
    exit 0
fi

# Read once: whoever exchanges files of a copy behind the first check would exchange the copy's own checker with them.
checker=$(cat -- "$here/verify.sh") || refuse 1 'verify.sh is missing; nothing was installed'

# Checks the release in the folder $1.
verify() {
    sh -c "$checker" "$1/verify.sh" --fingerprint "$fingerprint"
}

if [ -z "$fingerprint" ]; then
    sh -c "$checker" "$here/verify.sh"
    refuse 2 'nothing was installed: run it again with --fingerprint HEX'
fi
verify "$here" || refuse $? 'nothing was installed'
version=$(release_of "$here/RELEASE")
# It becomes the name of a folder, so it is looked at once more.
case $version in
    [0-9]*) ;;
    *) refuse 11 'RELEASE names no version; nothing was installed' ;;
esac
case $version in
    *[!0-9A-Za-z.+-]*) refuse 11 'RELEASE names no version; nothing was installed' ;;
esac

# What stands in the way is told before the first step.
for program in $programs; do
    link=$prefix/bin/$program
    if [ -e "$link" ] || [ -L "$link" ]; then
        [ "$(readlink -- "$link")" = "../lib/ampoule/current/bin/$program" ] ||
            refuse 1 "$link is there and is not ours: move it away; nothing was installed"
    fi
done
if [ -d "$lib/$version" ]; then
    verify "$lib/$version" >/dev/null ||
        refuse 11 "$lib/$version was installed before and has changed since; move it away and run install.sh again"
fi

if [ "$is_system" = yes ] && ! id ampoule >/dev/null 2>&1; then
    step useradd --system --user-group --no-create-home --home-dir "$state" --shell /usr/sbin/nologin ampoule
fi
step mkdir -p -- "$lib" "$prefix/bin" "$etc" "$state"

if [ ! -d "$lib/$version" ]; then
    # What is copied is verified again where it lies, and gets its name only then.  Two that install at once have a copy
    # each; what one left behind that was killed goes.
    for left in "$lib"/.staging.*; do
        if [ -d "$left" ] && ! kill -0 "${left##*.}" 2>/dev/null; then
            step rm -rf -- "$left"
        fi
    done
    staging=$lib/.staging.$$
    step cp -R -- "$here/." "$staging"
    [ "$is_system" = no ] || step chown -R 0:0 -- "$staging"
    # Five digits, because with four chmod leaves a folder its set-user-ID and set-group-ID bits.
    step find "$staging" -type d -exec chmod 00755 {} +
    step find "$staging" -type f -exec chmod 00644 {} +
    step find "$staging/bin" -type f -exec chmod 00755 {} +
    step find "$staging" -type f -name '*.sh' -exec chmod 00755 {} +
    if [ "$is_dry" = no ]; then
        verify "$staging" >/dev/null &&
            [ "$(release_of "$staging/RELEASE")" = "$version" ] ||
            refuse 11 "the copy in $staging is not what was signed: is the disk full, or did somebody change $here?"
        sync
    fi
    step mv -T -- "$staging" "$lib/$version"
fi
if [ ! -e "$etc/ampoule.toml" ] && [ ! -L "$etc/ampoule.toml" ]; then
    step install -m 0644 -- "$lib/$version/etc/ampoule.toml" "$etc/.ampoule.toml.new"
    step mv -fT -- "$etc/.ampoule.toml.new" "$etc/ampoule.toml"
fi

was=$(version_of current)
if [ "$was" = "$version" ]; then
    is_in_use=yes
    was=
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
# A dry run has no copy, but the same list.
list=$lib/$version/RELEASE
[ -f "$list" ] || list=$here/RELEASE
[ "$is_in_use" = yes ] || install_units "$version" "$list"

if [ "$is_dry" = yes ]; then
    echo 'this was a dry run: nothing was changed'
elif [ "$is_in_use" = yes ] && [ "$has_links" = yes ]; then
    echo "ampoule $version is already installed in $prefix"
else
    echo "ampoule $version is installed in $prefix${was:+; $was is kept, --rollback goes back to it}"
    cat <<NEXT
Next:
    $prefix/bin/ampoule verify-self --fingerprint $fingerprint
NEXT
    if [ -n "$was" ]; then
        echo "    restart what is running, which is $was until then"
    else
        # The service is of the group ampoule, and a key file that root makes is readable by root alone.
        readable=
        [ "$is_system" = no ] || readable="chgrp ampoule $etc/keys.jsonl && chmod 640 $etc/keys.jsonl"
        cat <<NEXT
    $prefix/bin/ampoule demo
    $prefix/bin/ampoule keys add alice --keys-file $etc/keys.jsonl${readable:+
    $readable}
    edit $etc/ampoule.toml: name your trust root; then import and activate a bundle:
    $prefix/bin/ampoule import MODEL.bundle --store $state --trust-root $etc/root.json
    $prefix/bin/ampoule activate MODEL --store $state
NEXT
    fi
    if [ "$is_system" = no ]; then
        echo "    $prefix/bin/ampoule serve --config $etc/ampoule.toml"
    elif [ -n "$was" ]; then
        echo '    systemctl restart ampoule'
    else
        echo '    systemctl enable --now ampoule'
    fi
fi
