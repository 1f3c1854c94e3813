#!/bin/sh
# Installs the apt packages that tests like to have. A test that lacks one is skipped, and ci.sh prints that at its end, so
# nothing fails here: without root, apt or a network, this only says what is missing.
set -u

# strace makes system calls of the daemon fail. With curl the commands of the documentation are tried. groff-base checks
# the manual pages. nginx and HAProxy stand before a member. openssl speaks older versions of TLS. (promtool, with which a test checks the metrics, comes with
# Prometheus itself, which is too large for this.)
wanted="strace curl openssl groff-base nginx-light haproxy"

missing=
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

# Gives up soon: whoever has no network waits for nothing.
apt() {
    timeout 120 env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=10 \
        -o Acquire::https::Timeout=10 -o DPkg::Lock::Timeout=10 "$@" </dev/null >&2
}

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    # Without quotes: one word for each package.
    apt install --no-install-recommends $missing && exit 0
    apt update && apt install --no-install-recommends $missing && exit 0
fi
echo ".ci/packages.sh: not installed:$missing; the tests that need it are skipped" >&2
exit 0
