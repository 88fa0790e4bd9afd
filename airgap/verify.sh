#!/bin/sh
# Is this folder, file by file, the release that the vendor signed?  Nothing of ours takes part: openssl checks the
# signature of the list RELEASE, sha256sum every file on it, find whether anything else lies here.  Nothing is read that
# is no file, or that is longer than the list says.
#
# A forged release brings a key of its own.  So the key's fingerprint must come to you by another way than the files:
# by telephone, on paper, from the vendor's page.  It is what `sha256sum trust/vendor.pub` prints.
set -u
LC_ALL=C
export LC_ALL
# With it, sed would drop the last of an odd number of lines.
unset POSIXLY_CORRECT

usage='Usage: ./verify.sh --fingerprint HEX

Checks every file of the folder that it lies in, and changes nothing.
Exit codes: 0 all is what was signed, 1 a tool is missing, 2 usage, 11 something is not.'

# Says why, and ends with the code of the table that all of Ampoule shares.
refuse() {
    code=$1
    shift
    printf 'verify.sh: %s\n' "$*" >&2
    exit "$code"
}

fingerprint=
while [ $# -gt 0 ]; do
    case $1 in
        --fingerprint) [ $# -ge 2 ] || refuse 2 '--fingerprint needs the 64 hex digits that the vendor told you'
            fingerprint=$2; shift 2 ;;
        --fingerprint=*) fingerprint=${1#*=}; shift ;;
        --help | -h) printf '%s\n' "$usage"; exit 0 ;;
        *) refuse 2 "unknown argument $1
$usage" ;;
    esac
done

for tool in openssl sha256sum find grep sed cut head tr od; do
    command -v "$tool" >/dev/null 2>&1 || refuse 1 "the tool '$tool' is missing: install it, nothing was checked"
done
# As people write it down: in capitals too, and with blanks around it.
given=$fingerprint
fingerprint=$(printf '%s\n' "$given" | tr 'A-F' 'a-f' | sed 's/^[[:space:]]*//; s/[[:space:]]*$//')
if [ -n "$fingerprint" ]; then
    case $fingerprint in
        *[!0-9a-f]*) digits=no ;;
        *) digits=${#fingerprint} ;;
    esac
    [ "$digits" = 64 ] || refuse 2 "a fingerprint has 64 hex digits, and this has not: $given; nothing was checked"
fi
# No $(dirname): it would lose line feeds at the end of the folder's name, and another folder be entered.
case $0 in
    /*) here=${0%/*} ;;
    */*) here=./${0%/*} ;;
    *) here=. ;;
esac
CDPATH='' cd -- "$here/" || refuse 1 'cannot enter the folder that this script lies in'

# Whether $1 is a regular file, and of the length $2 as find has it: 7c for 7 bytes, -7c for less.  It is not opened.
is_file_of() {
    [ -n "$(find "./$1" -prune -type f -size "$2" 2>/dev/null)" ]
}

# The three files that everything else hangs on must be files, not links to somewhere, and no longer than such a file is.
# Of a signature openssl reads no more than it needs; what hangs on behind it would be signed by nobody.
for rule in RELEASE.sig:80 trust/vendor.pub:4096 RELEASE:1048576; do
    name=${rule%:*}
    limit=${rule#*:}
    if [ -L "$name" ] || [ ! -f "$name" ]; then
        refuse 11 "missing: $name (or it is no regular file)"
    fi
    is_file_of "$name" "-$((limit + 1))c" || refuse 11 "$name is longer than $limit bytes, so it is not what its name says"
done

# The second byte of a signature in DER says how long it is.
length=$(od -An -tu1 -j1 -N1 RELEASE.sig | tr -d ' ')
is_file_of RELEASE.sig "$((${length:-0} + 2))c" || refuse 11 'RELEASE.sig is not one signature and nothing else'

# The digest of the file $1, which has $2 bytes; should it grow meanwhile, of no more than these.
digest_of() {
    head -c "$2" <"$1" | sha256sum | cut -c 1-64
}

found=$(digest_of trust/vendor.pub 4096)
if [ -z "$fingerprint" ]; then
    refuse 2 "nothing was checked yet.  The key of this release has the fingerprint

    $found

If that is the one that your vendor told you by another way than these files, give it:

    ./verify.sh --fingerprint $found"
fi
if [ "$found" != "$fingerprint" ]; then
    refuse 11 "trust/vendor.pub has the fingerprint
    $found, which is not
    $fingerprint: this is another vendor's release, or a forged one"
fi
if ! openssl dgst -sha256 -verify trust/vendor.pub -signature RELEASE.sig RELEASE >/dev/null 2>&1; then
    refuse 11 'RELEASE is not what that key signed: the list of files, or its signature, was changed'
fi

# Only now is the list read.
title=$(sed -n '1s/^# ampoule release //p' RELEASE)
# Each file has two lines, which are joined here.
entries=$(sed '1,2d' RELEASE | sed 'N; s/\n/ /') || refuse 1 'RELEASE cannot be read'
entry='^# [0-9]\{1,15\} bytes [0-9a-f]\{64\}  [A-Za-z0-9._/-]*$'
if [ -z "$title" ] || [ "$(sed -n '2p' RELEASE)" != '# format 1' ] || printf '%s\n' "$entries" | grep -qv "$entry"; then
    refuse 11 'RELEASE is of a format that this script does not know'
fi
files=$(sed -n 's/^[0-9a-f]\{64\}  //p' RELEASE)

is_listed() {
    printf '%s\n' "$files" RELEASE RELEASE.sig | grep -Fqx -- "$1"
}

# A tool that fails must not make the release look whole.
unread() {
    printf 'unread: not everything in this folder can be looked at\000'
}

# What find finds, one line for each name, whatever the name holds.
names() {
    { find . "$@" -print0 || unread; } | tr '\n\000' '?\n'
}

# One line for each defect.
defects() {
    printf '%s\n' "$entries" | while read -r _ length _ digest name; do
        if [ -L "$name" ] || [ ! -e "$name" ]; then
            echo "missing: $name"
        elif ! is_file_of "$name" "${length}c" || [ "$(digest_of "$name" "$length")" != "$digest" ]; then
            echo "changed: $name"
        fi
    done
    # A name that no release has is shown with ? for what a terminal might obey, and looked at no further.
    names -name '*[!A-Za-z0-9._-]*' -prune | sed 's/[^ -~]/?/g; s|^\./|extra: |'
    names -name '*[!A-Za-z0-9._-]*' -prune -o ! -type d ! -type f |
        sed 's|^\./\(.*\)|extra: \1 (a link, or something else that is no file)|'
    names -name '*[!A-Za-z0-9._-]*' -prune -o -type f | while IFS= read -r name; do
        case $name in
            ./*) is_listed "${name#./}" || echo "extra: ${name#./}" ;;
            *) echo "$name" ;;
        esac
    done
    # A folder belongs to the release when it holds one of its files.
    names -name '*[!A-Za-z0-9._-]*' -prune -o -type d ! -name . | while IFS= read -r name; do
        case "$name
$files" in
            ./*"
${name#./}/"*) ;;
            ./*) echo "extra: ${name#./} (a folder)" ;;
            *) echo "$name" ;;
        esac
    done
}

told=$(defects) || refuse 1 'the check did not come to its end'
if [ -n "$told" ]; then
    refuse 11 "this is not what was signed as ampoule release $title:
$told"
fi
count=$(printf '%s\n' "$files" | grep -c .)
echo "verified: ampoule release $title, all $count files, signed by the key $fingerprint"
