# shellcheck shell=bash
# Makes sure that Rust, a C compiler and a database are there. Sourced by the scripts in bin/, never run.
# Messages go to stderr, so that a script's own output stays clean.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$(dirname "${BASH_SOURCE[0]}")/postgres.sh"
cd "$root" || exit

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this needs root and there is no sudo; as root, run: $*"
  fi
}

# install_packages REASON PACKAGE...: from the system's packages (Debian and its relatives).
install_packages() {
  local reason=$1 log="$root/.backroom/install.log"
  shift
  command -v apt-get >/dev/null ||
    die "$reason. Install what Debian calls \"$*\" with this system's package manager, then run this again."
  say "$reason: installing $* from the system's packages."
  mkdir -p "$root/.backroom"
  if ! { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get \
    -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    die "could not install $*; the whole output is in $log"
  fi
}

# Rust as rust-toolchain.toml asks for it, and what compiling and downloading crates needs besides.
ensure_rust() {
  local wanted found cargo_bin=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin missing=()
  command -v cargo >/dev/null || PATH=$cargo_bin:$PATH
  command -v cargo >/dev/null || die "Rust is not installed. Get it from https://rustup.rs, then run this again."

  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  [[ -e /etc/ssl/certs/ca-certificates.crt || ! -e /etc/debian_version ]] || missing+=(ca-certificates)
  ((${#missing[@]} == 0)) || install_packages "Building needs a C compiler and the usual certificates" "${missing[@]}"

  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  found=$(rustc --version | cut -d ' ' -f 2) || die "rustc does not run; with rustup, try: rustup toolchain install"
  [[ $(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) == "$wanted" ]] ||
    die "Rust $wanted or newer is needed, this is $found. With rustup: rustup update; else get it from https://rustup.rs"
}

# A real browser for the tests of the pages.
ensure_chromium() {
  if ! command -v chromedriver >/dev/null || ! command -v chromium >/dev/null; then
    install_packages "The pages are tested in a real browser" chromium chromium-driver
  fi
}

# Exports DATABASE_URL: the one that is set already, or that of the private database under .backroom/.
ensure_database() {
  if [[ -n ${DATABASE_URL:-} ]]; then
    say "Using the database that DATABASE_URL names."
    return
  fi
  cluster_start "$root/.backroom/postgres"
  DATABASE_URL=$(cluster_url "$root/.backroom/postgres")
  export DATABASE_URL
  (umask 077 && printf '%s\n' "$DATABASE_URL" >"$root/.backroom/database_url")
}

# Exports DATABASE_URL: the one that is set already, or that of a private server that never waits for the disk. A thousand
# databases come and go in the tests, and what a power failure would take of them nobody misses.
ensure_test_database() {
  local dir=$root/.backroom/test-postgres setting
  if [[ -z ${DATABASE_URL:-} ]]; then
    cluster_start "$dir"
    DATABASE_URL=$(cluster_url "$dir")
    export DATABASE_URL
    for setting in fsync full_page_writes; do sql "$DATABASE_URL" -c "alter system set $setting = off"; done
    sql "$DATABASE_URL" -c 'select pg_reload_conf()'
  fi
}

# url_of_database URL NAME: the same server, another database.
url_of_database() {
  local url=${1%%\?*} options=''
  [[ $1 != *\?* ]] || options="?${1#*\?}"
  local scheme=${url%%://*} server=${url#*://}
  printf '%s\n' "$scheme://${server%%/*}/$2$options"
}

# fresh_database NAME: drops and creates database NAME beside that of DATABASE_URL; prints its URL.
fresh_database() {
  sql "$DATABASE_URL" -c "drop database if exists \"$1\"" -c "create database \"$1\" encoding 'UTF8' template template0" ||
    die "could not make database $1 anew. If it is in use, stop the program that uses it (bin/$(basename "$0") in another terminal?)."
  url_of_database "$DATABASE_URL" "$1"
}

# sql URL ARGUMENT...: psql without its habits; silent, and the first error ends it.
sql() {
  local url=$1
  shift
  PGOPTIONS="-c client_min_messages=warning ${PGOPTIONS:-}" "$(find_psql)" --no-psqlrc --quiet -v ON_ERROR_STOP=1 "$@" "$url" >/dev/null
}
