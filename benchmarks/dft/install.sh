#!/usr/bin/env bash
# GPAW with its atomic data for the system's python3, on Debian 12: what the scripts of this folder run under.
set -euo pipefail
if /usr/bin/python3 -c 'import ase, gpaw, scipy' 2> /dev/null && [ -d /usr/share/gpaw-setups ]; then
    echo "GPAW is there: $(/usr/bin/python3 -c 'import gpaw; print(gpaw.__version__)')"
    exit 0
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
$sudo apt-get update
$sudo apt-get install -y --no-install-recommends gpaw gpaw-data python3-ase
