# shellcheck shell=bash
# What `bin/bench compare` needs around benches/peers/compare.py. Sourced by bin/bench.

compare() {
  command -v python3 >/dev/null || install_packages "Comparing needs Python" python3 python3-venv
  case " $* " in
    *" --help "* | *" -h "*) exec python3 benches/peers/compare.py --help ;;
  esac
  ensure_compare_server
  SQLX_OFFLINE=true cargo build --locked --release --package backroom
  BACKROOM_BINARY=$(realpath "${CARGO_TARGET_DIR:-target}/release/backroom")
  PSQL=$(find_psql)
  export DATABASE_URL BACKROOM_BINARY PSQL
  # The peers build into a directory of their own.
  unset CARGO_TARGET_DIR
  python3 benches/peers/compare.py "$@"
}

# Sets DATABASE_URL: the one that is set already, or that of a private cluster that counts statements.
ensure_compare_server() {
  if [[ -n ${DATABASE_URL:-} ]]; then
    say "Using the server that DATABASE_URL names."
    return
  fi
  # shellcheck disable=SC2154 # bootstrap.sh sets root
  local dir=$root/.backroom/peers/postgres
  cluster_start "$dir"
  DATABASE_URL=$(cluster_url "$dir")
  counts_statements "$DATABASE_URL" && return
  sql "$DATABASE_URL" -c "select 1 / count(*) from pg_available_extensions where name = 'pg_stat_statements'" 2>/dev/null ||
    {
      say "PostgreSQL's contrib modules are missing, so statements and claims are not measured."
      return
    }
  sql "$DATABASE_URL" -c "alter system set shared_preload_libraries = 'pg_stat_statements'"
  cluster_restart "$dir"
  DATABASE_URL=$(cluster_url "$dir")
}

counts_statements() {
  sql "$1" -c "select 1 / (position('pg_stat_statements' in current_setting('shared_preload_libraries')))" 2>/dev/null
}
