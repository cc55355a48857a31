#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs missing Debian packages that the wheels and the build require; without the permission it prints the command.
# With the argument "browser" it also installs the browser of the report's tests, which are skipped without one.
set -eu

missing=""
need() {  # need <package> <command that succeeds if it is installed>
  package=$1; shift
  "$@" >/dev/null 2>&1 || missing="$missing $package"
}
library() { PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | grep -q "$1 "; }
python=${PYTHON:-python3}

need libusb-1.0-0 library libusb-1.0.so.0
need libgl1 library libGL.so.1
need libegl1 library libEGL.so.1
need libgomp1 library libgomp.so.1
need libx11-6 library libX11.so.6
need g++ g++ --version
need make make --version
need cmake cmake --version
need python3-venv "$python" -c 'import ensurepip, venv'
need python3-dev "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
if [ "${1:-}" = browser ]; then
  need chromium-headless-shell sh -c 'command -v chromium-headless-shell || command -v chromium || command -v google-chrome'
  need fonts-dejavu-core test -d /usr/share/fonts/truetype
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then as_root=""; else as_root="sudo -n"; fi
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
  echo "  installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  $as_root apt-get update -qq
  # shellcheck disable=SC2086
  $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
  echo "This machine lacks$missing: install them (sudo apt-get install$missing) and run make again." >&2
  exit 1
fi
