#!/bin/sh
# The whole life of an installation, from the tarball to its removal, as one script: what a site does, with nothing but
# what it was handed.  `cargo xtask airgap --check` runs it in an empty folder and in a network that holds nothing.
#
# In the folder: two releases, each a tarball with its signature, vendor.pub, and the demo's model sealed by that vendor.
# Arguments: the fingerprint of vendor.pub, the first release, the next release.
set -eu
LC_ALL=C
export LC_ALL
fingerprint=$1
first=$2
next=$3

here=$PWD
home=$here/site
port=18080
url=http://127.0.0.1:$port

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'end-to-end.sh: %s\n' "$*" >&2; exit 1; }

server=
stop() {
    [ -n "$server" ] || return 0
    kill "$server" 2>/dev/null || :
    wait "$server" || fail "the server did not end well after SIGTERM: exit $?"
    server=
}
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || :' EXIT

# Starts the installed server with the arguments given and waits until it is ready.
serve() {
    "$home/bin/ampoule" serve --trust-root "$here/root.json" --keys-file "$here/keys.jsonl" --listen "127.0.0.1:$port" \
        --admin-socket "$here/admin.sock" "$@" 2> serve.log &
    server=$!
    until curl --silent --fail --output /dev/null "$url/readyz"; do
        kill -0 "$server" 2>/dev/null || { cat serve.log >&2; fail 'the server ended before it was ready'; }
        sleep 0.2
    done
}

# What the model $1 answers to the question $2.
ask() {
    printf '{"model": "%s", "messages": [{"role": "user", "content": "%s"}]}' "$1" "$2" > request.json
    curl --silent --show-error --fail-with-body --max-time 60 "$url/v1/chat/completions" \
        --header "Authorization: Bearer $(cat key.txt)" --header 'Content-Type: application/json' \
        --data @request.json > reply.json || { cat reply.json >&2; return 1; }
    sed -n 's/.*"content": *"\(\([^"\\]\|\\.\)*\)".*/\1/p' reply.json | head -n 1
}

# The count in a line such as "adapter: 36 of 36 right (100.0 %)" of the file $2.
right() { sed -n "s/^$1: *\([0-9]*\) of .*/\1/p" "$2"; }
asked() { sed -n "s/^$1: *[0-9]* of \([0-9]*\) .*/\1/p" "$2"; }

step 'unpack and verify'
sha256sum vendor.pub | grep -q "^$fingerprint " || fail 'vendor.pub has another fingerprint'
openssl dgst -sha256 -verify vendor.pub -signature "ampoule-$first-x86_64-linux.tar.gz.sig" \
    "ampoule-$first-x86_64-linux.tar.gz"
tar -xzf "ampoule-$first-x86_64-linux.tar.gz"
"ampoule-$first/verify.sh" --fingerprint "$fingerprint"

step 'install'
"ampoule-$first/install.sh" --fingerprint "$fingerprint" --prefix "$home"
PATH=$home/bin:$PATH
export PATH
ampoule verify-self --fingerprint "$fingerprint"
release=$home/lib/ampoule/current

step 'a key of the site, and the root that it pins: the vendor for bases, the site for adapters'
printf 'a password of the site\n' > site.password
chmod 600 site.password
ampoule-seal keygen --password-file site.password site
ampoule-seal keygen --password-file site.password our-root
ampoule-seal trust init --version 2 --root-key our-root.pub --release-key vendor.pub --revoke-key vendor.pub \
    --site-key site.pub --out root.json
ampoule keys add alice --keys-file keys.jsonl > keys.txt
grep -o 'amp-[A-Za-z0-9_-]*' keys.txt | head -n 1 > key.txt
[ -s key.txt ] || { cat keys.txt; fail 'no key was printed'; }

step 'serve the demo bundle from the store, and chat'
store=$home/var/lib/ampoule
ampoule import demo.bundle --store "$store" --trust-root root.json
ampoule activate demo --store "$store"
serve --store "$store"
before=$(ask demo 'What is Ampoule?')
echo "$before"
case $before in *sealed*) ;; *) fail "the demo does not know what Ampoule is: $before" ;; esac
foreign=$(ask demo 'Where is the cafeteria?')
case $foreign in 'I only know about Ampoule'*) ;; *) fail "the base knows the cafeteria already: $foreign" ;; esac

step 'train an adapter'
# At the demo's size more threads mostly wait for each other.
CANDLE_NUM_THREADS=1
RAYON_NUM_THREADS=1
export CANDLE_NUM_THREADS RAYON_NUM_THREADS
base="--base demo.bundle --trust-root root.json"
lessons=$release/examples
[ "$(wc -l < "$lessons/train.jsonl")" -eq 60 ] || fail 'there are not 60 examples'
# shellcheck disable=SC2086 # the folder has no space in its name
ampoule-trainer train $base --data "$lessons/train.jsonl" --rehearse "$lessons/rehearse.jsonl" --out adapter \
    --epochs 60 --batch 12 --rank 64 --learning-rate 7e-4
[ -s adapter/report.html ] || fail 'there is no report'

step 'evaluate: what it was taught, in other words; and what it knew before'
# shellcheck disable=SC2086
ampoule-trainer evaluate $base --data "$lessons/held-out.jsonl" --adapter adapter --pass-mark 0.9 | tee held-out.txt
[ "$(right base held-out.txt)" -le 1 ] || fail 'the base knew the answers before'
# shellcheck disable=SC2086
ampoule-trainer evaluate $base --data "$lessons/known.jsonl" --adapter adapter > known.txt || fail 'evaluate failed'
tail -n 2 known.txt
lost=$(($(right base known.txt) - $(right adapter known.txt)))
[ $((lost * 50)) -le "$(asked base known.txt)" ] || fail "of what it knew, $lost answers are lost: more than one in fifty"

unset CANDLE_NUM_THREADS RAYON_NUM_THREADS

step 'seal and load the adapter into the running server'
# shellcheck disable=SC2086
ampoule-trainer export $base --adapter adapter --name helpdesk --version 1.0.0 --counter 1 --key site.key \
    --password-file site.password --out helpdesk.bundle
ampoule adapters load helpdesk.bundle --admin-socket admin.sock
ampoule adapters list --admin-socket admin.sock
taught=$(ask helpdesk 'What is the cafeteria?')
echo "$taught"
[ "$taught" = "The cafeteria is on the second floor and opens from 8 to 15 o'clock." ] || fail 'the adapter does not answer'
[ "$(ask demo 'What is Ampoule?')" = "$before" ] || fail 'the base answers otherwise than before'
[ "$(ask demo 'Where is the cafeteria?')" = "$foreign" ] || fail 'the base knows what the adapter was taught'

step 'roll the adapter back'
ampoule adapters unload helpdesk --admin-socket admin.sock
if ask helpdesk 'What is the cafeteria?' > refused.txt 2>&1; then fail 'the adapter still answers'; fi
grep -q model_not_found refused.txt reply.json || { cat reply.json; fail 'an unknown model has another error'; }
[ "$(ask demo 'What is Ampoule?')" = "$before" ] || fail 'the base answers otherwise than before'
stop

step 'an adapter is served from the configuration as well, and refused without its base'
serve --store "$store" --set adapters=helpdesk.bundle
[ "$(ask helpdesk 'What is the cafeteria?')" = "$taught" ] || fail 'after a restart the adapter answers otherwise'
ampoule-conformance run --profile smoke --target "$url" --api-key-file key.txt > smoke.txt ||
    { cat smoke.txt; fail 'a case of conformance failed beside an adapter'; }
stop

step 'conformance, in full'
ampoule-conformance run --profile full --binary "$home/bin/ampoule" --bundle demo.bundle \
    --trust-root root.json > conformance.txt || { cat conformance.txt; fail 'a case of conformance failed'; }
tail -n 3 conformance.txt

step 'install the next release over it, serve, go back'
openssl dgst -sha256 -verify vendor.pub -signature "ampoule-$next-x86_64-linux.tar.gz.sig" \
    "ampoule-$next-x86_64-linux.tar.gz"
tar -xzf "ampoule-$next-x86_64-linux.tar.gz"
"ampoule-$next/install.sh" --fingerprint "$fingerprint" --prefix "$home"
[ "$(readlink "$home/lib/ampoule/current")" = "$next" ] || fail 'the next release is not in use'
ampoule verify-self --fingerprint "$fingerprint"
serve --store "$store" --set adapters=helpdesk.bundle
[ "$(ask demo 'What is Ampoule?')" = "$before" ] || fail 'the next release answers otherwise'
[ "$(ask helpdesk 'What is the cafeteria?')" = "$taught" ] || fail 'the next release answers otherwise with the adapter'
stop
"ampoule-$next/install.sh" --rollback --prefix "$home"
[ "$(readlink "$home/lib/ampoule/current")" = "$first" ] || fail 'the first release is not in use again'
ampoule verify-self --fingerprint "$fingerprint"
serve --store "$store"
[ "$(ask demo 'What is Ampoule?')" = "$before" ] || fail 'after going back it answers otherwise'
stop

step 'uninstall: only state and configuration stay'
"ampoule-$next/uninstall.sh" --prefix "$home"
left=$(cd "$home" && find . -type f ! -path './etc/ampoule/*' ! -path './var/lib/ampoule/*')
[ -z "$left" ] || fail "uninstall left $left"
[ ! -e "$home/bin/ampoule" ] && [ ! -e "$home/lib/ampoule" ] || fail 'programs are still there'
find "$home/var/lib/ampoule" -type f | grep -q . || fail 'uninstall took the state with it'

step 'done: every step held'
