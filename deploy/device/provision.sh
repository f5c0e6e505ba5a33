#!/bin/sh
# Makes a machine with JetPack 6 or 7 (or any Linux with Python 3.10) a device of a fleet. Run as root, on the device;
# again at any time: it changes only what differs, and never the device's name, group or root of trust.
set -eu

usage() {
    cat <<'USAGE'
usage: provision.sh --from DIR [--authorized-key FILE] [--user NAME] [--prefix DIR] [--no-services]

  --from DIR             folder with edgekd-agent.pyz, edgekd-agent.sha256, device.json, root.json, login.py and,
                         in systemd/, the units
  --authorized-key FILE  public key of the operator, allowed to run the agent's commands and SFTP and nothing else
  --user NAME            user of the agent and of the operator's login (edgekd)
  --prefix DIR           lay files out below DIR, as for the image of a disk: no user is made, no service started
  --no-services          do not touch systemd
exit codes: 0 done, 1 failed, 2 usage, 4 this device is another one already, 5 something is missing
USAGE
}

say() { printf 'provision: %s\n' "$1"; }
fail() { printf 'provision: %s\n' "$2" >&2; exit "$1"; }

from='' key='' user=edgekd prefix='' services=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --from | --authorized-key | --user | --prefix)
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            case "$1" in
                --from) from=$2 ;;
                --authorized-key) key=$2 ;;
                --user) user=$2 ;;
                --prefix) prefix=$2 ;;
            esac
            shift 2
            ;;
        --no-services) services=no; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
[ -n "$from" ] || { usage >&2; exit 2; }
case "$user" in '' | -* | *[!a-z0-9_-]*) fail 2 "--user $user is not the name of a user" ;; esac

root=$prefix/var/lib/edgekd
agents=$prefix/opt/edgekd

check() {
    for file in edgekd-agent.pyz edgekd-agent.sha256 device.json root.json login.py; do
        [ -f "$from/$file" ] || fail 5 "$from/$file is missing"
    done
    [ -z "$key" ] || [ -f "$key" ] || fail 5 "$key is missing"
    command -v python3 >/dev/null || fail 5 "python3 is missing: apt-get install python3"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail 5 "python3 is older than 3.10: JetPack 6 or 7 is needed"
    [ -n "$prefix" ] || [ "$(id -u)" -eq 0 ] || fail 5 "root is needed: sudo sh provision.sh ..."
    [ ! -f "$root/device.json" ] || cmp -s "$root/device.json" "$from/device.json" ||
        fail 4 "this device was provisioned as another: compare $root/device.json; remove $root to start anew"
}

make_user() {
    [ -z "$prefix" ] || return 0
    id "$user" >/dev/null 2>&1 ||
        useradd --system --create-home --home-dir "/home/$user" --shell /bin/sh "$user"
    for group in video render gpio i2c; do
        if getent group "$group" >/dev/null; then usermod -a -G "$group" "$user"; fi
    done
    # No password, but not locked: sshd refuses keys of locked users.
    usermod -p '*' "$user"
}

own() { [ -n "$prefix" ] || chown "$user:$user" "$1"; }

folder() { # mode, path
    [ -d "$2" ] || mkdir -p "$2"
    chmod "$1" "$2"
    own "$2"
}

put() { # mode, source, target: whole or not at all
    cp "$2" "$3.new"
    chmod "$1" "$3.new"
    sync -d "$3.new" 2>/dev/null || sync
    mv -f "$3.new" "$3"
}

lay_out() {
    mkdir -p "$agents"
    chmod 0755 "$agents"
    folder 0750 "$root"
    folder 0700 "$root/trust"
    for place in "$root/staging" "$root/staging/metadata" "$root/staging/blobs"; do folder 0750 "$place"; done
    if [ ! -f "$root/device.json" ]; then put 0644 "$from/device.json" "$root/device.json"; fi
    own "$root/device.json"
    if [ -f "$root/trust/root.json" ]; then
        say "the root of trust is there already and stays"
    else
        put 0644 "$from/root.json" "$root/trust/root.json"
    fi
    own "$root/trust/root.json"
}

install_agent() {
    python3 -I "$from/edgekd-agent.pyz" upgrade "$from/edgekd-agent.pyz" \
        --sha256 "$(cut -d' ' -f1 "$from/edgekd-agent.sha256")" --into "$agents"
    put 0755 "$from/login.py" "$agents/login.py"
}

allow_operator() {
    [ -n "$key" ] || return 0
    home=$prefix/home/$user
    [ -n "$prefix" ] || home=$(getent passwd "$user" | cut -d: -f6)
    folder 0755 "$home"
    folder 0700 "$home/.ssh"
    printf 'restrict,command="python3 -I /opt/edgekd/login.py" %s\n' "$(cat "$key")" >"$home/.ssh/line"
    touch "$home/.ssh/authorized_keys"
    grep -qxF -f "$home/.ssh/line" "$home/.ssh/authorized_keys" ||
        cat "$home/.ssh/line" >>"$home/.ssh/authorized_keys"
    rm -f "$home/.ssh/line"
    chmod 0600 "$home/.ssh/authorized_keys"
    own "$home/.ssh/authorized_keys"
}

install_units() {
    [ -d "$from/systemd" ] || return 0
    mkdir -p "$prefix/etc/systemd/system"
    for unit in "$from"/systemd/*; do
        put 0644 "$unit" "$prefix/etc/systemd/system/$(basename "$unit")"
    done
    [ -z "$prefix" ] && [ "$services" = yes ] && [ -d /run/systemd/system ] || { say "services were not started"; return 0; }
    systemctl daemon-reload
    for unit in "$from"/systemd/*; do
        if grep -q '^\[Install\]' "$unit"; then systemctl enable --now "$(basename "$unit")"; fi
    done
}

check
make_user
lay_out
install_agent
allow_operator
install_units
say "done"
