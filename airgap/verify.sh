#!/bin/sh
# Is this folder, file by file, the release that the vendor signed?  Nothing of ours takes part: openssl checks the
# signature of the list RELEASE, sha256sum every file on it, find whether anything else lies here.
#
# A forged release brings a key of its own.  So the key's fingerprint must come to you by another way than the files:
# by telephone, on paper, from the vendor's page.  It is what `sha256sum trust/vendor.pub` prints.
set -u
LC_ALL=C
export LC_ALL

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

for tool in openssl sha256sum find grep sed cut dirname wc; do
    command -v "$tool" >/dev/null 2>&1 || refuse 1 "the tool '$tool' is missing: install it, nothing was checked"
done
CDPATH='' cd -- "$(dirname -- "$0")" || refuse 1 'cannot enter the folder that this script lies in'

# The four files that everything else hangs on must be files, not links to somewhere.
for name in RELEASE RELEASE.sig trust/vendor.pub; do
    if [ -L "$name" ] || [ ! -f "$name" ]; then
        refuse 11 "missing: $name (or it is no regular file)"
    fi
done

# openssl reads a signature to its end and no further; what hangs on behind it would be signed by nobody.
[ "$(wc -c <RELEASE.sig)" -le 80 ] || refuse 11 'RELEASE.sig is longer than any signature'

digest_of() {
    sha256sum <"$1" | cut -c 1-64
}

found=$(digest_of trust/vendor.pub)
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
line='^[0-9a-f]\{64\}  [A-Za-z0-9._/-]*$'
title=$(sed -n '1s/^# ampoule release //p' RELEASE)
if [ -z "$title" ] || [ "$(sed -n '2p' RELEASE)" != '# format 1' ] || sed '1,2d' RELEASE | grep -qv "$line"; then
    refuse 11 'RELEASE is of a format that this script does not know'
fi
entries=$(sed '1,2d' RELEASE) || refuse 1 'RELEASE cannot be read'
files=$(sed -n 's/^[0-9a-f]\{64\}  //p' RELEASE)

is_listed() {
    printf '%s\n' "$files" RELEASE RELEASE.sig | grep -Fqx -- "$1"
}

# A tool that fails must not make the release look whole.
unread() {
    echo 'unread: not everything in this folder can be looked at'
}

# One line for each defect.
defects() {
    printf '%s\n' "$entries" | while read -r digest name; do
        if [ -L "$name" ] || [ ! -e "$name" ]; then
            echo "missing: $name"
        elif [ ! -f "$name" ] || [ "$(digest_of "$name")" != "$digest" ]; then
            echo "changed: $name"
        fi
    done
    # A name that no release has is shown with ? for what a terminal might obey, and looked at no further.
    odd=$(find . -name '*[!A-Za-z0-9._-]*' -prune -print) || unread
    [ -z "$odd" ] || printf '%s\n' "$odd" | sed 's/[^ -~]/?/g; s|^\./|extra: |'
    links=$(find . -name '*[!A-Za-z0-9._-]*' -prune -o ! -type d ! -type f -print) || unread
    [ -z "$links" ] || printf '%s\n' "$links" |
        sed 's|^\./\(.*\)|extra: \1 (a link, or something else that is no file)|'
    there=$(find . -name '*[!A-Za-z0-9._-]*' -prune -o -type f -print) || unread
    printf '%s\n' "$there" | while IFS= read -r name; do
        is_listed "${name#./}" || echo "extra: ${name#./}"
    done
    # A folder belongs to the release when it holds one of its files.
    folders=$(find . -name '*[!A-Za-z0-9._-]*' -prune -o -type d ! -name . -print) || unread
    printf '%s\n' "$folders" | while IFS= read -r name; do
        name=${name#./}
        case "
$files" in
            *"
$name/"*) ;;
            *) echo "extra: $name (a folder)" ;;
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
