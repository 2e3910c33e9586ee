#!/bin/bash
# The same `wg` commands on the kernel's WireGuard and on $FORWARDER: after each of them both must show the
# same, and both must have said the same.
#
#   [ reference ] wg0, a device        [ forwarder ] wg0, a socket
#
# Runs as root in a User-mode Linux guest: `cargo xtask test`. Elsewhere wireguard-go can take the kernel's
# place: its program is $REFERENCE, the two namespaces' names begin with $PREFIX, and $FILES is a new directory.
set -eu

FILES=${FILES:-/tmp/uapi}
PREFIX=${PREFIX:-}
SYSTEMS=(reference forwarder)

main() {
    trap clean_up EXIT
    mkdir -m 700 $FILES
    make_keys
    start_reference
    start_forwarder
    same "as started"
    peers
    prefixes
    attributes
    interface
    files
    refusals
    keys
    kill -TERM "$FORWARDER_PID"
    wait "$FORWARDER_PID" || fail "forwarder's exit status is $?"
    [ -z "$(ls $FILES/forwarder)" ] || fail "sockets are left behind"
    echo "ok"
}

peers() {
    both set wg0 peer "$A" allowed-ips 10.1.0.0/16,fd01::/64
    both set wg0 peer "$B"
    both set wg0 peer "$C" allowed-ips 10.3.0.0/16 peer "$D" allowed-ips 10.4.0.0/16,0.0.0.0/0
    both set wg0 peer "$C" remove peer "$B" allowed-ips 10.2.0.0/16
    both set wg0 peer "$C" remove
    both set wg0 peer "$OWN" allowed-ips 10.1.0.0/16
}

prefixes() {
    both set wg0 peer "$B" allowed-ips 10.1.0.0/16
    both set wg0 peer "$A" allowed-ips 10.1.2.3/24,10.1.2.4/24,fd01::1/128,::/0
    both set wg0 peer "$A" allowed-ips ""
    both set wg0 peer "$A" allowed-ips 10.5.0.0/16 peer "$B" allowed-ips 10.5.0.0/16
    both set wg0 peer "$A" allowed-ips 10.5.0.0/16
}

attributes() {
    both set wg0 peer "$A" endpoint 192.0.2.1:5 persistent-keepalive 25
    both set wg0 peer "$A" endpoint '[2001:db8::1]:65535'
    both set wg0 peer "$A" preshared-key $FILES/psk
    both set wg0 peer "$A" persistent-keepalive 65535
    both set wg0 peer "$A" persistent-keepalive off
    both set wg0 peer "$A" preshared-key /dev/null
    both set wg0 peer "$B" preshared-key $FILES/psk persistent-keepalive 1 endpoint 192.0.2.2:6
}

interface() {
    both set wg0 listen-port 40000 fwmark 0x1234
    both set wg0 fwmark 0xffffffff
    both set wg0 fwmark off
    both set wg0
}

# wg0.conf of showconf, and with less and more in it.
files() {
    sed '/^\[Peer\]/,$d' $FILES/reference.conf >$FILES/interface.conf
    { cat $FILES/interface.conf && peer "$D" "10.4.0.0/16" && peer "$E" "10.6.0.0/16, fd06::/64"; } >$FILES/de.conf
    { cat $FILES/de.conf && echo "PersistentKeepalive = 7" && echo "PresharedKey = $(cat $FILES/psk)"; } >$FILES/full.conf
    { peer "$A" "10.6.0.0/16" && echo "Endpoint = 192.0.2.3:7"; } >$FILES/a.conf
    cp $FILES/reference.conf $FILES/all.conf
    both syncconf wg0 $FILES/all.conf
    both setconf wg0 $FILES/all.conf
    both syncconf wg0 $FILES/full.conf
    both syncconf wg0 $FILES/de.conf
    both addconf wg0 $FILES/a.conf
    both addconf wg0 $FILES/full.conf
    both setconf wg0 $FILES/de.conf
    both setconf wg0 $FILES/interface.conf
    both setconf wg0 $FILES/full.conf
}

refusals() {
    [ -n "${REFERENCE:-}" ] || taken_port
    both set wg0 peer "$D" allowed-ips 10.0.0.0/33
    both set wg0 peer nonsense
    both set wg1 listen-port 1
    both show wg1
}

taken_port() {
    local system
    for system in "${SYSTEMS[@]}"; do
        ip -n "$PREFIX$system" link add busy type wireguard
        on $system set busy listen-port 41000
        ip -n "$PREFIX$system" link set busy up
    done
    # The kernel shows the new port then, and goes on with the old one.
    both_say set wg0 listen-port 41000
    both set wg0 listen-port 40000
}

keys() {
    wg pubkey <$FILES/other >$FILES/other.pub
    both set wg0 peer "$(cat $FILES/other.pub)" allowed-ips 10.7.0.0/16
    both set wg0 private-key $FILES/other
    both set wg0 peer "$OWN" allowed-ips 10.8.0.0/16
    both set wg0 private-key /dev/null
    both set wg0 private-key $FILES/own
}

make_keys() {
    local name
    (umask 077 && for name in own other a b c d e; do wg genkey >$FILES/$name; done && wg genpsk >$FILES/psk)
    OWN=$(wg pubkey <$FILES/own)
    A=$(wg pubkey <$FILES/a)
    B=$(wg pubkey <$FILES/b)
    C=$(wg pubkey <$FILES/c)
    D=$(wg pubkey <$FILES/d)
    E=$(wg pubkey <$FILES/e)
}

peer() { # public key, allowed IPs
    printf '[Peer]\nPublicKey = %s\nAllowedIPs = %s\n' "$1" "$2"
}

start_reference() {
    make_namespace reference
    if [ -z "${REFERENCE:-}" ]; then
        ip -n "${PREFIX}reference" link add wg0 type wireguard
    else
        in_namespace reference env WG_PROCESS_FOREGROUND=1 "$REFERENCE" -f wg0 >$FILES/reference.log 2>&1 &
        REFERENCE_PID=$!
        wait_until reference "[ -S $FILES/reference/wg0.sock ]"
    fi
    on reference set wg0 private-key $FILES/own listen-port 51820
    ip -n "${PREFIX}reference" link set wg0 up
}

start_forwarder() {
    mkdir -m 700 $FILES/tunnels
    printf '[Interface]\nPrivateKey = %s\nListenPort = 51820\nTable = off\n' "$(cat $FILES/own)" >$FILES/tunnels/wg0.conf
    chmod 600 $FILES/tunnels/wg0.conf
    make_namespace forwarder
    ip -n "${PREFIX}forwarder" link add eth0 type veth peer name far
    ip -n "${PREFIX}forwarder" link set far up
    ip -n "${PREFIX}forwarder" link set eth0 up
    in_namespace forwarder "$FORWARDER" run --iface eth0 --config $FILES/tunnels >$FILES/forwarder.log 2>&1 &
    FORWARDER_PID=$!
    wait_until forwarder "grep -qw ready $FILES/forwarder.log"
}

make_namespace() { # system
    ip netns add "$PREFIX$1"
    ip -n "$PREFIX$1" link set lo up
    mkdir -m 700 $FILES/$1
    mkdir -p /run/wireguard
}

# The namespaces share /run, and `wg` prefers a socket there to a device: each gets a directory of its own. In
# the background it is the program itself, since everything before it ends in `exec`.
in_namespace() { # system, command
    local system=$1
    shift
    exec ip netns exec "$PREFIX$system" sh -ec "mount --bind $FILES/$system /run/wireguard; exec \"\$@\"" sh "$@"
}

wait_until() { # system, condition
    local deadline=$((SECONDS + 20))
    until eval "$2"; do
        [ $SECONDS -lt $deadline ] || fail "$1 was not ready after 20 s"
        sleep 0.2
    done
}

on() { # system, arguments of wg
    local system=$1
    shift
    (in_namespace $system wg "$@")
}

both() { # arguments of wg
    both_say "$@"
    same "wg $*"
}

both_say() { # arguments of wg
    local system status
    for system in "${SYSTEMS[@]}"; do
        status=0
        on $system "$@" >$FILES/$system.said 2>&1 || status=$?
        echo "exit status $status" >>$FILES/$system.said
    done
    cmp -s $FILES/reference.said $FILES/forwarder.said ||
        fail "wg $*: $(diff $FILES/reference.said $FILES/forwarder.said)"
}

same() { # after what
    local system
    for system in "${SYSTEMS[@]}"; do
        on $system show wg0 dump | normal | sort >$FILES/$system.dump
        on $system showconf wg0 >$FILES/$system.conf
        normal_conf <$FILES/$system.conf | sort >$FILES/$system.normal
    done
    cmp -s $FILES/reference.dump $FILES/forwarder.dump || fail "$1: $(diff $FILES/reference.dump $FILES/forwarder.dump)"
    cmp -s $FILES/reference.normal $FILES/forwarder.normal ||
        fail "$1: $(diff $FILES/reference.normal $FILES/forwarder.normal)"
    echo "== $1: $(($(wc -l <$FILES/reference.dump) - 1)) peers"
}

# A dump with each peer's prefixes in order, and without what became of its packets: nobody answers here. The
# order of peers means nothing, and wireguard-go has none.
normal() {
    local interface public preshared endpoint prefixes handshake rx tx keepalive
    read -r interface
    echo "$interface"
    while IFS=$'\t' read -r public preshared endpoint prefixes handshake rx tx keepalive; do
        echo "$public $preshared $endpoint $(sorted "$prefixes") $keepalive"
    done
}

normal_conf() {
    local line
    while read -r line; do
        case "$line" in
        AllowedIPs*) echo "AllowedIPs = $(sorted "${line#AllowedIPs = }")" ;;
        *) echo "$line" ;;
        esac
    done
}

sorted() { # a list with commas
    echo "$1" | tr -d ' ' | tr ',' '\n' | sort | tr '\n' ' '
}

fail() {
    echo "FAILED: $*"
    tail -n 20 $FILES/forwarder.log
    exit 1
}

clean_up() {
    local system
    kill ${REFERENCE_PID:-} ${FORWARDER_PID:-} 2>/dev/null || true
    wait
    for system in "${SYSTEMS[@]}"; do
        ip netns del "$PREFIX$system" 2>/dev/null || true
    done
}

main
