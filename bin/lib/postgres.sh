# shellcheck shell=bash
# PostgreSQL clusters that belong to nobody else. Sourced by bootstrap.sh. A cluster is a directory with
#
#   data/      the server's files, its server.log among them; a link when the server's user cannot reach this directory
#   password   of the superuser "postgres"
#   port       on 127.0.0.1; kept, unless something else has taken it when the server starts
#   lock       held by a script while it creates, starts or stops the server
#
# The server has PostgreSQL's durable defaults and no Unix socket. It runs as whoever runs the script; when that is root,
# whom PostgreSQL refuses, as "postgres" or, failing that, as a system user "backroom" made for it.

oldest_postgres=14

# Prints "MAJOR DIRECTORY" for each PostgreSQL server on this machine that is new enough, the newest first.
list_servers() {
  local dir version dirs=(/usr/lib/postgresql/*/bin /usr/pgsql-*/bin)
  if command -v pg_config >/dev/null; then dirs+=("$(pg_config --bindir)"); fi
  if command -v postgres >/dev/null; then dirs+=("$(dirname "$(realpath "$(command -v postgres)")")"); fi
  for dir in "${dirs[@]}"; do
    if [[ ! -x $dir/initdb || ! -x $dir/pg_ctl ]]; then continue; fi
    version=$("$dir/postgres" --version 2>/dev/null || true)
    if [[ $version =~ \)\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= oldest_postgres)); then
      printf '%s %s\n' "${BASH_REMATCH[1]}" "$dir"
    fi
  done | sort -rnu -k 1,1
}

# Sets pg_major and pg_bin: version MAJOR if given, else the newest; installs PostgreSQL if there is none at all.
find_server() {
  local servers
  servers=$(list_servers)
  if [[ -z $servers ]]; then
    install_postgres
    servers=$(list_servers)
    [[ -n $servers ]] || die "PostgreSQL $oldest_postgres or newer is needed, and this system's packages have no such server."
  fi
  read -r pg_major pg_bin < <(grep "^${1:-}" <<<"$servers") ||
    die "this database was made by PostgreSQL $1, which is not here any more. Install that version, or remove the database."
}

# The package would create and start a cluster of its own; the setting keeps it from doing so and leaves with us.
install_postgres() {
  local settings=/etc/postgresql-common/createcluster.d
  if [[ -e /etc/debian_version ]]; then
    as_root mkdir -p $settings
    as_root sh -c "echo 'create_main_cluster = false' > $settings/backroom.conf"
  fi
  install_packages "There is no PostgreSQL server here" postgresql
  as_root rm -f $settings/backroom.conf
}

find_psql() {
  local server
  while read -r _ server; do
    if [[ -x $server/psql ]]; then
      printf '%s\n' "$server/psql"
      return
    fi
  done < <(list_servers)
  command -v psql || die "psql is needed; install the package postgresql-client"
}

# cluster_start DIR: creates the cluster if need be and starts its server unless it runs.
cluster_start() {
  mkdir -p "$1" 2>/dev/null || true
  [[ -w $1 ]] || die "cannot write to $1; run this as $(owner_of "$1"), or remove that directory."
  locked "$1" start_unless_running
}

# cluster_stop DIR [fast|immediate]
cluster_stop() { locked "$1" stop_if_running "${2:-fast}"; }

# cluster_restart DIR [fast|immediate]
cluster_restart() { locked "$1" restart "${2:-fast}"; }

# cluster_remove DIR: stops the server and deletes what cluster_start made.
cluster_remove() {
  locked "$1" remove
  rm -f "$1/lock"
  rmdir --ignore-fail-on-non-empty "$1"
}

# cluster_url DIR [DATABASE]
cluster_url() {
  [[ -r $1/port && -r $1/password ]] || die "there is no database in $1 that $(id -un) may use; start it with: bin/pg start $1"
  printf 'postgres://postgres:%s@127.0.0.1:%s/%s\n' "$(<"$1/password")" "$(<"$1/port")" "${2:-postgres}"
}

# locked DIR FUNCTION ARGUMENT...: runs it alone, with cluster (the absolute path) and server_user set.
locked() {
  [[ -w $1 ]] || die "there is no database in $1 that $(id -un) may start or stop"
  exec 9>"$1/lock"
  flock 9
  cluster=$(realpath "$1")
  server_user=$(choose_server_user)
  "${@:2}"
  exec 9>&-
}

start_unless_running() {
  local port attempt
  if [[ ! -e $cluster/data/PG_VERSION ]]; then create; fi
  if running; then return; fi
  find_server "$(<"$cluster/data/PG_VERSION")"
  say "Starting a private database in ${cluster#"$root/"} with PostgreSQL $pg_major from $pg_bin."
  forget_dead_server

  port=$(cat "$cluster/port" 2>/dev/null || free_port)
  for attempt in 1 2 3 4 5; do
    if port_is_taken "$port"; then port=$(free_port); fi
    echo "$port" >"$cluster/port"
    # Without 9>&- the server would hold the lock for as long as it lives.
    if as_server "$pg_bin/pg_ctl" start --silent --wait --timeout=300 -D "$(realpath "$cluster/data")" \
      -l "$(realpath "$cluster/data")/server.log" -o "-p $port" >/dev/null 2>&1 9>&-; then
      return
    fi
    case $(tail -n 5 "$cluster/data/server.log") in
      *"could not bind"*) port=$(free_port) ;;
      *"still in use"*) sleep 1 ;; # processes of a killed server are on their way out
      *) break ;;
    esac
  done
  tail -n 20 "$cluster/data/server.log" >&2
  die "PostgreSQL did not start (attempt $attempt); its log is $cluster/data/server.log"
}

stop_if_running() {
  if ! running; then return; fi
  find_server "$(<"$cluster/data/PG_VERSION")"
  as_server "$pg_bin/pg_ctl" stop --silent --wait --timeout=120 -m "$1" -D "$(realpath "$cluster/data")"
}

restart() {
  stop_if_running "$1"
  start_unless_running
}

remove() {
  [[ -e $cluster/data/PG_VERSION ]] || die "there is no database in $cluster"
  stop_if_running immediate
  rm -rf -- "$(realpath "$cluster/data")" "$cluster/data"
  rm -f -- "$cluster/"{password,port,initdb.log}
}

# A new cluster is built aside and moved into place when it is whole, so that an interrupted start leaves no half of one.
create() {
  local data=$cluster/data log=$cluster/initdb.log password_file
  find_server
  server_user=$(choose_server_user) # again: installing PostgreSQL may just have made "postgres"
  if [[ $server_user == backroom ]] && ! id backroom >/dev/null 2>&1; then
    useradd --system --no-create-home --shell /usr/sbin/nologin backroom
  fi
  if ! as_server test -x "$cluster"; then
    data=/var/lib/backroom-$(sha256sum <<<"$cluster" | cut -c 1-16)
    say "User $server_user cannot reach $cluster, so the database lives in $data."
  fi
  rm -rf -- "$data" "$data.new"
  mkdir -m 700 "$data.new"
  (umask 077 && head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$cluster/password")
  password_file=$(mktemp)
  cp "$cluster/password" "$password_file"
  if [[ -n $server_user ]]; then chown "$server_user:" "$data.new" "$password_file"; fi

  if ! as_server "$pg_bin/initdb" -D "$data.new" --username=postgres --pwfile="$password_file" --auth=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 >"$log" 2>&1; then
    rm -f "$password_file"
    cat "$log" >&2
    die "could not create a database in $data"
  fi
  rm -f "$password_file"
  cat >>"$data.new/postgresql.conf" <<-END

	# Backroom
	listen_addresses = '127.0.0.1'
	unix_socket_directories = ''
	max_connections = 200
	END
  mv -T "$data.new" "$data"
  if [[ $data != "$cluster/data" ]]; then ln -sfn "$data" "$cluster/data"; fi
}

# The process that postmaster.pid names may be another program's by now: what tells is the directory it works in.
running() {
  local pid
  pid=$(head -n 1 "$cluster/data/postmaster.pid" 2>/dev/null) || return 1
  [[ $(as_server readlink "/proc/$pid/cwd" 2>/dev/null) == "$(realpath "$cluster/data")" ]]
}

# PostgreSQL copes with a postmaster.pid whose process is gone, but not with one whose number another program has got, nor
# with a zombie (a container often has nobody to reap it). A number that no process can have lets it see that the server
# is dead; whether processes of the dead one are left it still checks itself.
forget_dead_server() {
  local pid
  pid=$(head -n 1 "$cluster/data/postmaster.pid" 2>/dev/null) || return 0
  if [[ ! -e /proc/$pid/status ]]; then return; fi
  if [[ $(<"/proc/$pid/comm") != postgres ]] || grep -q '^State:[[:space:]]*Z' "/proc/$pid/status"; then
    as_server sed -i '1s/.*/4194305/' "$(realpath "$cluster/data")/postmaster.pid"
  fi
}

# Below the range that Linux hands out to clients.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)) && port_is_taken "$port"; do :; done
  echo "$port"
}

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Whoever owns the data already; nobody (that is: ourselves) unless we are root.
choose_server_user() {
  local owner
  if ((EUID != 0)); then return; fi
  owner=$(owner_of "$cluster/data")
  if [[ -n $owner && $owner != root ]]; then
    echo "$owner"
  elif id postgres >/dev/null 2>&1; then
    echo postgres
  else
    echo backroom
  fi
}

owner_of() { stat -Lc %U "$1" 2>/dev/null || true; }

# Runs a program as the server's user, from a directory which that user can surely enter.
as_server() {
  (
    cd /
    if [[ -z $server_user ]]; then
      exec "$@"
    elif command -v runuser >/dev/null; then
      exec runuser -u "$server_user" -- "$@"
    else
      exec setpriv --reuid="$server_user" --regid="$(id -g "$server_user")" --init-groups "$@"
    fi
  )
}
