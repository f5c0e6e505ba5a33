#!/bin/sh
# Makes a machine with JetPack 6 or 7 (or any Linux with Python 3.10 and OpenSSH) a device of a fleet. Run as root, on the
# device; again at any time: it changes only what differs, and never the device's name, group or root of trust. A device
# on which the agent and the operator's login were one user becomes one with two; what it runs goes on.
set -eu

usage() {
    cat <<'USAGE'
usage: provision.sh --from DIR [--authorized-key FILE] [--user NAME] [--push-user NAME] [--prefix DIR] [--no-services]

  --from DIR             folder with edgekd-agent.pyz, edgekd-agent.sha256, device.json, root.json and, in systemd/,
                         the units
  --authorized-key FILE  public key of the operator, allowed to push files and to ask the agent, nothing else
  --user NAME            user of the agent, who cannot log in (edgekd)
  --push-user NAME       the operator's login (edgekd-push)
  --prefix DIR           lay files out below DIR, as for the image of a disk: no user is made, no service started
  --no-services          do not touch systemd
exit codes: 0 done, 1 failed, 2 usage, 4 this device is another one already, 5 something is missing
USAGE
}

say() { printf 'provision: %s\n' "$1"; }
fail() { printf 'provision: %s\n' "$2" >&2; exit "$1"; }

from='' key='' user=edgekd push=edgekd-push prefix='' services=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --from | --authorized-key | --user | --push-user | --prefix)
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            case "$1" in
                --from) from=$2 ;;
                --authorized-key) key=$2 ;;
                --user) user=$2 ;;
                --push-user) push=$2 ;;
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
for name in "$user" "$push"; do
    case "$name" in '' | root | -* | *[!a-z0-9_-]*) fail 2 "$name is not the name of a user for this" ;; esac
done
[ "$user" != "$push" ] || fail 2 "--user and --push-user are both $user: they must differ"

root=$prefix/var/lib/edgekd
door=$prefix/var/lib/edgekd-push
agents=$prefix/opt/edgekd
ssh=$prefix/etc/ssh
keys=$ssh/edgekd_authorized_keys
rules=$ssh/sshd_config.d/edgekd.conf
nologin=/usr/sbin/nologin
sshd=$(command -v sshd || echo /usr/sbin/sshd)

check() {
    for file in edgekd-agent.pyz edgekd-agent.sha256 device.json root.json; do
        [ -f "$from/$file" ] || fail 5 "$from/$file is missing"
    done
    [ -z "$key" ] || [ -f "$key" ] || fail 5 "$key is missing"
    command -v python3 >/dev/null || fail 5 "python3 is missing: apt-get install python3"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail 5 "python3 is older than 3.10: JetPack 6 or 7 is needed"
    [ -n "$prefix" ] || [ "$(id -u)" -eq 0 ] || fail 5 "root is needed: sudo sh provision.sh ..."
    [ -n "$prefix" ] || [ -x "$sshd" ] || fail 5 "OpenSSH's server is missing: apt-get install openssh-server"
    [ ! -f "$root/device.json" ] || cmp -s "$root/device.json" "$from/device.json" ||
        fail 4 "this device was provisioned as another: compare $root/device.json; remove $root to start anew"
    [ -n "$prefix" ] || [ "$(home_of "$push")" = / ] || [ -z "$(home_of "$push")" ] ||
        fail 5 "there is a user $push already, for something else: choose another by --push-user"
}

home_of() { getent passwd "$1" | cut -d: -f6; }

make_users() {
    [ -z "$prefix" ] || return 0
    id "$user" >/dev/null 2>&1 ||
        useradd --system --user-group --no-create-home --home-dir "$root" --shell "$nologin" "$user"
    id "$push" >/dev/null 2>&1 ||
        useradd --system --user-group --no-create-home --home-dir / --shell "$nologin" "$push"
    usermod --shell "$nologin" "$user"
    for group in video render gpio i2c; do
        if getent group "$group" >/dev/null; then usermod -a -G "$group" "$user"; fi
    done
    # No password, but not locked: sshd refuses keys of locked users.
    usermod -p '*' "$push"
}

folder() { # mode, owner, group, path
    [ -d "$4" ] || mkdir -p "$4"
    [ -n "$prefix" ] || chown "$2:$3" "$4"
    chmod "$1" "$4"
}

put() { # mode, source, target: whole or not at all
    cp "$2" "$3.new"
    chmod "$1" "$3.new"
    sync "$3.new" 2>/dev/null || :
    mv -f "$3.new" "$3"
}

lay_out() {
    mkdir -p "$agents"
    chmod 0755 "$agents"
    folder 0750 "$user" "$user" "$root"
    folder 0700 "$user" "$user" "$root/trust"
    if [ ! -f "$root/device.json" ]; then put 0644 "$from/device.json" "$root/device.json"; fi
    if [ -f "$root/trust/root.json" ]; then
        say "the root of trust is there already and stays"
        cmp -s "$root/trust/root.json" "$from/root.json" ||
            say "it is NOT the one that was sent: compare $root/trust/root.json with your repository"
    else
        put 0644 "$from/root.json" "$root/trust/root.json"
    fi
    [ -n "$prefix" ] || chown "$user:$user" "$root/device.json" "$root/trust/root.json"
}

# The operator's login sees this folder as /. All of it is root's but for three folders, which are the agent's: it makes
# its socket in one, the login's group may write to the other two.
lay_out_door() {
    folder 0755 root root "$door"
    folder 0755 root root "$door/staging"
    for place in metadata blobs; do folder 0770 "$user" "$push" "$door/staging/$place"; done
    folder 2750 "$user" "$push" "$door/agent"
    ln -sfn agent/agent.sock "$door/edgekd-agent"
    [ -L "$root/staging" ] || { leave_old_staging; ln -s ../edgekd-push/staging "$root/staging"; }
}

leave_old_staging() {
    [ -d "$root/staging" ] || return 0
    if [ -f "$root/lock" ]; then
        exec 9<"$root/lock"
        flock -w 120 9 || fail 1 "an install is under way on this device; provision it again when it has ended"
    fi
    rm -rf "$root/staging"
}

install_agent() {
    python3 -I "$from/edgekd-agent.pyz" upgrade "$from/edgekd-agent.pyz" \
        --sha256 "$(cut -d' ' -f1 "$from/edgekd-agent.sha256")" --into "$agents"
    rm -f "$agents/login.py"
}

# internal-sftp needs no file in the folder that becomes /. PermitOpen is what confines forwarding: sshd takes the name
# of a socket for that of a host, so this one socket may be opened, no other and no port.
confine_login() {
    mkdir -p "$ssh/sshd_config.d"
    cat >"$rules.new" <<RULES
# Made by edgekd's provision.sh. The operator's login: SFTP into staging and the agent's socket, nothing else.
Match User $push
    AuthenticationMethods publickey
    AuthorizedKeysFile /etc/ssh/edgekd_authorized_keys
    ChrootDirectory /var/lib/edgekd-push
    ForceCommand internal-sftp -u 0022
    AllowStreamLocalForwarding local
    AllowTcpForwarding local
    PermitOpen edgekd-agent:*
    PermitListen none
    AllowAgentForwarding no
    X11Forwarding no
    PermitTunnel no
    PermitTTY no
    PermitUserRC no
# The agent's user does not log in.
Match User $user
    PubkeyAuthentication no
    PasswordAuthentication no
    KbdInteractiveAuthentication no
    AuthorizedKeysFile none
Match all
RULES
    chmod 0644 "$rules.new"
    if [ -f "$rules" ] && cmp -s "$rules" "$rules.new"; then
        rm -f "$rules.new"
    else
        mv -f "$rules.new" "$rules"
        is_reloaded=no
    fi
    [ -z "$prefix" ] || return 0
    mkdir -p /run/sshd
    said=$("$sshd" -T -C "user=$push,host=localhost,addr=127.0.0.1" 2>&1) ||
        { rm -f "$rules"; fail 1 "sshd does not take its rules: $(printf '%s' "$said" | tail -n 1)"; }
    for line in 'chrootdirectory /var/lib/edgekd-push' 'forcecommand internal-sftp -u 0022' \
        'permitopen edgekd-agent:*' 'permitlisten none' 'allowstreamlocalforwarding local' \
        'authorizedkeysfile /etc/ssh/edgekd_authorized_keys' 'permittunnel no' 'disableforwarding no'; do
        printf '%s\n' "$said" | grep -qxiF "$line" ||
            fail 5 "sshd does not heed $rules ($line): let /etc/ssh/sshd_config begin with: Include /etc/ssh/sshd_config.d/*.conf"
    done
}

allow_operator() {
    touch "$keys"
    chmod 0644 "$keys"
    [ -z "$key" ] || sed -n 's/^[^#[:space:]]/restrict,port-forwarding &/p' "$key" | add_keys
    take_over_keys
}

add_keys() { # lines on stdin, each once
    while IFS= read -r line; do
        grep -qxF -e "$line" "$keys" || printf '%s\n' "$line" >>"$keys"
    done
}

# Operators who were let in as the agent's own user keep their way in, as $push. The old file is kept for who wonders.
take_over_keys() {
    [ -z "$prefix" ] || return 0
    old=$(home_of "$user")/.ssh/authorized_keys
    [ -f "$old" ] && [ ! -L "$old" ] || return 0
    sed -n 's|^restrict,command="python3 -I /opt/edgekd/login.py" |restrict,port-forwarding |p' "$old" | add_keys
    mv -f "$old" "$old.before-two-users"
    chown -h root:root "$old.before-two-users"
    say "the operator's login is $push now, not $user: write $push@... into fleet.yaml"
    say "whose keys may push is in $keys: read it"
}

has_systemd() { [ -z "$prefix" ] && [ "$services" = yes ] && [ -d /run/systemd/system ]; }

reload_sshd() {
    [ -z "$prefix" ] && [ "$is_reloaded" = no ] || return 0
    if has_systemd; then
        for unit in ssh.service sshd.service; do systemctl try-reload-or-restart "$unit" 2>/dev/null || :; done
    elif [ -s /run/sshd.pid ]; then
        kill -HUP "$(cat /run/sshd.pid)"
    else
        say "let sshd read its configuration again"
    fi
}

install_units() {
    [ -d "$from/systemd" ] || return 0
    mkdir -p "$prefix/etc/systemd/system"
    for unit in "$from"/systemd/*; do
        named=$prefix/etc/systemd/system/$(basename "$unit")
        sed -e "s/^\(User\|Group\)=edgekd\$/\1=$user/" -e "s/--user edgekd-push\$/--user $push/" "$unit" >"$named.made"
        put 0644 "$named.made" "$named"
        rm -f "$named.made"
    done
    has_systemd || { say "services were not started"; return 0; }
    systemctl daemon-reload
    for unit in "$from"/systemd/*; do
        grep -q '^\[Install\]' "$unit" || continue
        systemctl enable "$(basename "$unit")"
        systemctl start --no-block "$(basename "$unit")"  # recovering may take as long as building an engine
    done
    if [ -f "$from/systemd/edgekd-attend.service" ]; then systemctl restart --no-block edgekd-attend.service; fi
}

is_reloaded=yes
check
make_users
lay_out
lay_out_door
install_agent
confine_login
allow_operator
reload_sshd
install_units
say "done"
