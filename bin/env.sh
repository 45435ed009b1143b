# shellcheck shell=bash
# Sourced by every command in bin/: finds the project, makes its virtual environment when it is missing or older than
# the requirements, and leaves an environment in which `python` is the project's own.
#
#   CUSTODY_VENV   where the virtual environment is (default: .venv in the project)

set -euo pipefail

CUSTODY_ROOT=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
CUSTODY_VENV=${CUSTODY_VENV:-$CUSTODY_ROOT/.venv}

say() { printf 'custody: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# Settings of another Airflow, or of another project's Python, must not leak into this one.
for name in ${!AIRFLOW_@}; do unset "$name"; done
unset name PYTHONPATH PYTHONHOME VIRTUAL_ENV

is_fit_python() {
  "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' 2>/dev/null
}

# Prints the first interpreter that is of a fit version and can make a virtual environment.
find_python() {
  local candidate without_venv=""
  for candidate in python3.12 python3.13 python3.11 python3; do
    is_fit_python "$candidate" || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
    without_venv=${without_venv:-$candidate}
  done
  if [[ -n $without_venv ]]; then
    local version
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    die "$without_venv has no venv module; on Debian: apt-get install python$version-venv"
  fi
  die "no Python 3.11, 3.12 or 3.13 on the PATH; on Debian 12: apt-get install python3 python3-venv"
}

make_venv() {
  local python
  python=$(find_python)
  say "making $CUSTODY_VENV with $("$python" --version)"
  rm -rf -- "$CUSTODY_VENV"
  "$python" -m venv "$CUSTODY_VENV" || die "could not make $CUSTODY_VENV with $python; the lines above say why"
}

# install_log_failed WHAT: one line with the last thing the installer said, and where the rest is.
install_log_failed() {
  die "could not install $1; is there a network to the Python package index?" \
    "last line: $(grep -v '^ *$' "$CUSTODY_VENV/install.log" | tail -n 1 | cut -c 1-300); whole log: $CUSTODY_VENV/install.log"
}

stamp_of() { (cd -- "$CUSTODY_ROOT" && sha256sum -- requirements-uv.txt "$@"); }

# install_requirements FILE NOTE: installs one locked file by hash, once; NOTE says how long that takes.
install_requirements() {
  local file=$1 note=$2 stamp="$CUSTODY_VENV/.installed-$1" python="$CUSTODY_VENV/bin/python"
  if [[ -x $python && -f $stamp && $(<"$stamp") == "$(stamp_of "$file")" ]]; then return; fi
  (
    # The lock is on the directory itself: nothing is left lying about, and it goes with the process.
    if ! flock --nonblock 9; then
      say "another command is installing the requirements; waiting for it"
      flock 9
    fi
    if [[ -f $stamp && $(<"$stamp") == "$(stamp_of "$file")" ]]; then exit 0; fi
    if ! is_fit_python "$python" || ! "$python" -c 'import pip' 2>/dev/null; then make_venv; fi
    say "installing $file $note"
    local log="$CUSTODY_VENV/install.log"
    "$python" -m pip install --quiet --disable-pip-version-check --require-hashes \
      -r "$CUSTODY_ROOT/requirements-uv.txt" >"$log" 2>&1 9<&- || install_log_failed requirements-uv.txt
    # A machine may reach its package index only through settings of pip that uv does not read: then pip itself.
    "$CUSTODY_VENV/bin/uv" pip install --quiet --python "$python" --compile-bytecode --require-hashes \
      -r "$CUSTODY_ROOT/$file" >>"$log" 2>&1 9<&- || {
      say "uv could not install $file; trying pip, a few minutes"
      "$python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        -r "$CUSTODY_ROOT/$file" >>"$log" 2>&1 9<&- || install_log_failed "$file"
    }
    stamp_of "$file" >"$stamp.new"
    mv -- "$stamp.new" "$stamp"
  ) 9<"$CUSTODY_ROOT"
}

install_requirements requirements.txt "(Airflow and what Custody needs), about a minute"

export PATH="$CUSTODY_VENV/bin:$PATH"
export PYTHONPATH="$CUSTODY_ROOT/include:$CUSTODY_ROOT/plugins:$CUSTODY_ROOT/dags"
