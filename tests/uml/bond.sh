#!/bin/bash
# Two sites, three ports each in an 802.3ad bond, three tunnels between them. End b is the kernel recipe:
# wg-quick with `Table = off` and one route over three nexthops. End a is $FORWARDER on bond0, or the
# kernel recipe again when FORWARDER is not set, which tests this lab itself.
#
#   hosta 10.1.0.2 -- lan0 [ a ] bond0 198.51.100.1 == 198.51.100.2 bond0 [ b ] lan0 -- hostb 10.2.0.2
#
# With HAIRPIN set, end a is one-armed: its LAN is VLAN 10 of the bond, the underlay VLAN 20.
#
#   [ a ] bond0.20 198.51.100.1 == 198.51.100.2 bond0.20 [ b ] lan0 -- hostb 10.2.0.2
#         bond0.10 10.1.0.1     == hosta 10.1.0.2
#
# Runs as root in a User-mode Linux guest: `cargo xtask test`.
set -eu

# End b's bond picks the slave by the kernel's layer3+4 hash: h = ports ^ source ^ destination;
# h ^= h >> 16; h ^= h >> 8; h >>= 1; slave = h % 3. Bit 0 is dropped, so consecutive ports collide;
# these ports were solved for: each tunnel gets a slave of its own, in both directions.
PORTS_A=(5000 5001 5002)
PORTS_B=(6000 6006 6012)
FLOWS=30
CONFIG=/tmp/sites
if [ -n "${HAIRPIN:-}" ]; then
    WAN=bond0.20 LAN_A=bond0.10 PORTS=(--iface bond0)
    MATCH=(protocol 802.1q flower vlan_id 20 vlan_ethtype ip)
else
    WAN=bond0 LAN_A=lan0 PORTS=(--iface bond0 --iface lan0)
    MATCH=(protocol ip flower)
fi

main() {
    make_sites
    wait_for_lacp
    write_tunnels
    start_recipe b 10.1.0.0/24
    start_a
    ping_through
    start_counting
    run_flows
    check_each_tunnel_has_its_own_slave
    check_nothing_in_clear
    check_lacp "after the traffic"
    lose_a_partner
    stop_a
    check_lacp "after the stop"
    echo "ok"
}

in_ns() {
    ip netns exec "$@"
}

fail() {
    echo "FAILED: $*"
    [ ! -e /tmp/forwarder.log ] || tail -n 40 /tmp/forwarder.log
    in_ns b wg show
    exit 1
}

make_sites() {
    echo "== two sites"
    local site i
    for site in a b; do
        ip netns add $site
        ip netns add host$site
        in_ns $site sysctl -qw net.ipv4.ip_forward=1 net.ipv4.fib_multipath_hash_policy=1
    done
    for i in 0 1 2; do
        ip link add a$i netns a type veth peer name b$i netns b
    done
    make_gateway a 198.51.100.1/24
    make_gateway b 198.51.100.2/24
    make_lan a $LAN_A 10.1.0
    make_lan b lan0 10.2.0
}

make_gateway() { # site, address on the underlay
    local site=$1 i
    ip -n $site link set lo up
    ip -n $site link add bond0 type bond mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy layer3+4
    for i in 0 1 2; do
        finish_checksums $site $site$i
        ip -n $site link set $site$i master bond0
    done
    ip -n $site link set bond0 up
    [ $WAN = bond0 ] || add_vlan $site 20
    ip -n $site address add "$2" dev $WAN
}

add_vlan() { # site, VLAN
    ip -n "$1" link add link bond0 name "bond0.$2" type vlan id "$2"
    ip -n "$1" link set "bond0.$2" up
}

make_lan() { # site, its device, LAN prefix
    local site=$1 lan=$2
    if [ "$lan" = bond0.10 ]; then
        # The host is on the other side of the same cables.
        add_vlan a 10
        add_vlan b 10
        ip -n b link set bond0.10 netns hosta name eth0
    else
        ip link add "$lan" netns $site type veth peer name eth0 netns host$site
        finish_checksums host$site eth0
    fi
    ip -n $site address add "$3.1/24" dev "$lan"
    ip -n $site link set "$lan" up
    ip -n host$site address add "$3.2/24" dev eth0
    ip -n host$site link set eth0 up
    ip -n host$site route add default via "$3.1"
}

# On a veth a checksum and a VLAN tag are left to a NIC that does not exist; AF_XDP at the other end would
# see them undone.
finish_checksums() { # namespace, device
    in_ns "$1" ethtool -K "$2" tx off txvlan off >/dev/null
}

lacp_states() {
    local site i
    for site in a b; do
        for i in 0 1 2; do
            in_ns $site cat /sys/class/net/$site$i/bonding_slave/ad_{actor,partner}_oper_port_state
        done
    done | tr '\n' ' '
}

lacp_is_up() {
    [ "$(lacp_states)" = "63 63 63 63 63 63 63 63 63 63 63 63 " ]
}

wait_for_lacp() {
    local deadline=$((SECONDS + 20))
    while [ $SECONDS -lt $deadline ]; do
        if lacp_is_up; then
            echo "== LACP: all six ports at state 63"
            return
        fi
        sleep 0.2
    done
    fail "LACP states (actor, partner): $(lacp_states)"
}

check_lacp() { # when
    sleep 1
    lacp_is_up || fail "LACP states $1: $(lacp_states)"
    echo "== LACP: all six ports at state 63 $1"
}

# The same files serve wg-quick and forwarder.
write_tunnels() {
    local site i
    for site in a b; do
        mkdir -p $CONFIG/$site
        (umask 077 && wg genkey >$CONFIG/$site.key)
        wg pubkey <$CONFIG/$site.key >$CONFIG/$site.pub
    done
    for i in 0 1 2; do
        write_tunnel a $i "${PORTS_A[i]}" 10.9.0.$((i + 1)) b "198.51.100.2:${PORTS_B[i]}" 10.2.0.0/24
        write_tunnel b $i "${PORTS_B[i]}" 10.9.1.$((i + 1)) a "198.51.100.1:${PORTS_A[i]}" 10.1.0.0/24
    done
}

write_tunnel() { # site, number, listen port, address, peer's site, its endpoint, its LAN
    cat >"$CONFIG/$1/wg$2.conf" <<EOF
[Interface]
PrivateKey = $(cat "$CONFIG/$1.key")
ListenPort = $3
Address = $4/32
Table = off

[Peer]
PublicKey = $(cat "$CONFIG/$5.pub")
Endpoint = $6
AllowedIPs = $7
PersistentKeepalive = 10
EOF
    chmod 600 "$CONFIG/$1/wg$2.conf"
}

start_recipe() { # site, the other site's LAN
    echo "== kernel WireGuard with ECMP at end $1"
    local i
    for i in 0 1 2; do
        in_ns "$1" wg-quick up "$CONFIG/$1/wg$i.conf" >/tmp/wg-quick.log 2>&1 || fail "$(cat /tmp/wg-quick.log)"
    done
    ip -n "$1" route add "$2" nexthop dev wg0 weight 1 nexthop dev wg1 weight 1 nexthop dev wg2 weight 1
}

start_a() {
    if [ -z "${FORWARDER:-}" ]; then
        start_recipe a 10.2.0.0/24
        return
    fi
    echo "== forwarder at end a"
    # Not by in_ns: a function in the background is a shell of its own, and $! would be that.
    # The namespaces share /run, where end b's `wg` would find our sockets before its own devices.
    mkdir -p /run/wireguard
    ip netns exec a sh -c 'mount -t tmpfs tmpfs /run/wireguard; exec "$@"' sh \
        "$FORWARDER" run "${PORTS[@]}" --config $CONFIG/a >/tmp/forwarder.log 2>&1 &
    FORWARDER_PID=$!
    local deadline=$((SECONDS + 20))
    while [ $SECONDS -lt $deadline ]; do
        if grep -qw ready /tmp/forwarder.log; then
            # `Table = off` leaves the route to the operator, as with wg-quick.
            ip -n a route add 10.2.0.0/24 dev forwarder0
            return
        fi
        kill -0 $FORWARDER_PID || fail "forwarder ended before it was ready"
        sleep 0.2
    done
    fail "forwarder was not ready after 20 s"
}

# The first packets wait for the handshakes, so they are not counted.
ping_through() {
    echo "== ping LAN to LAN both ways, and from both gateways"
    in_ns hosta ping -q -c 3 -i 0.3 -W 5 10.2.0.2 >/dev/null || true
    expect_ping hosta 10.1.0.2 10.2.0.2
    expect_ping hostb 10.2.0.2 10.1.0.2
    expect_ping a 10.1.0.1 10.2.0.2
    expect_ping b 10.2.0.1 10.1.0.2
}

expect_ping() { # namespace, source, destination
    local summary
    summary=$(in_ns "$1" ping -q -c 10 -i 0.2 -W 2 -I "$2" "$3" | grep transmitted) || true
    case "$summary" in
    "10 packets transmitted, 10 received,"*) echo "   $2 -> $3: $summary" ;;
    *) fail "ping $2 -> $3: ${summary:-no answer}" ;;
    esac
}

# Counters on each slave of end b, where no XDP program hides a frame: by tunnel, received and sent,
# and for packets of the LANs that no tunnel wraps.
start_counting() {
    local slave i
    for slave in b0 b1 b2; do
        tc -n b qdisc add dev $slave clsact
        for i in 0 1 2; do
            count $slave ingress $((i + 1)) ip_proto udp src_port "${PORTS_A[i]}" dst_port "${PORTS_B[i]}"
            count $slave egress $((i + 1)) ip_proto udp src_port "${PORTS_B[i]}" dst_port "${PORTS_A[i]}"
        done
        count $slave ingress 9 dst_ip 10.0.0.0/8
        count $slave egress 9 dst_ip 10.0.0.0/8
    done
}

count() { # slave, direction, number of the counter, match
    local slave=$1 direction=$2 number=$3
    shift 3
    tc -n b filter add dev "$slave" "$direction" pref "$number" "${MATCH[@]}" "$@" action pass
}

counted() { # slave, direction, number of the counter
    tc -n b -s filter show dev "$1" "$2" pref "$3" | sed -n 's/.*Sent [0-9]* bytes \([0-9]*\) pkt.*/\1/p'
}

run_flows() {
    echo "== $FLOWS UDP flows each way"
    in_ns hostb iperf3 --server --daemon >/dev/null # ends with the guest
    sleep 0.3
    iperf hosta ""
    iperf hosta --reverse
}

iperf() { # namespace, option
    local report
    report=$(in_ns "$1" iperf3 --client 10.2.0.2 --udp --parallel $FLOWS --bitrate 40k --length 250 --time 3 $2) ||
        fail "iperf3: $report"
    echo "$report" | grep 'SUM.*receiver'
    echo "$report" | grep -q 'SUM.* 0/[0-9]* (0%) *receiver' || fail "packets were lost"
}

check_each_tunnel_has_its_own_slave() {
    own_slaves ingress "end a sends"
    own_slaves egress "end b sends"
}

own_slaves() { # direction as end b sees it, title
    local i slave packets used taken=" "
    echo "== $2: packets by tunnel and slave"
    printf '   %-6s %8s %8s %8s\n' "" b0 b1 b2
    for i in 0 1 2; do
        packets=()
        used=()
        for slave in b0 b1 b2; do
            packets+=("$(counted $slave "$1" $((i + 1)))")
            [ "${packets[-1]}" = 0 ] || used+=($slave)
        done
        printf '   %-6s %8s %8s %8s\n' "wg$i" "${packets[@]}"
        [ ${#used[@]} = 1 ] || fail "$2: tunnel wg$i uses ${#used[@]} slaves"
        case "$taken" in
        *" ${used[0]} "*) fail "$2: slave ${used[0]} carries two tunnels" ;;
        esac
        taken="$taken${used[0]} "
    done
}

check_nothing_in_clear() {
    local slave direction
    for slave in b0 b1 b2; do
        for direction in ingress egress; do
            [ "$(counted $slave $direction 9)" = 0 ] || fail "packets of the LANs in clear on $slave ($direction)"
        done
    done
    echo "== nothing in clear"
}

# A port with a carrier but without a partner must get no frame; its tunnel moves, and comes back.
lose_a_partner() {
    [ -n "${FORWARDER_PID:-}" ] && [ -z "${HAIRPIN:-}" ] || return 0
    echo "== port b1 leaves its bond: a1 has a carrier and no partner"
    ip -n b link set b1 nomaster
    ip -n b link set b1 up
    wait_until 20 "a1 is still in the aggregate" a1_is_out
    sleep 1
    local before
    before=$(arrived_on_b1)
    expect_ping hosta 10.1.0.2 10.2.0.2
    iperf hosta ""
    [ "$(arrived_on_b1)" = "$before" ] || fail "a1 got frames without a partner"

    echo "== port b1 joins again"
    ip -n b link set b1 down
    ip -n b link set b1 master bond0
    wait_for_lacp
    sleep 1
    iperf hosta ""
    [ "$(arrived_on_b1)" != "$before" ] || fail "a1 got no frame after its return"
}

a1_is_out() {
    local state
    state=$(in_ns a cat /sys/class/net/a1/bonding_slave/ad_actor_oper_port_state)
    [ $((state & 0x30)) != 48 ]
}

arrived_on_b1() {
    local i sum=0
    for i in 1 2 3; do
        sum=$((sum + $(counted b1 ingress $i)))
    done
    echo $sum
}

wait_until() { # seconds, complaint, condition
    local deadline=$((SECONDS + $1))
    until "$3"; do
        [ $SECONDS -lt $deadline ] || fail "$2"
        sleep 0.2
    done
}

stop_a() {
    [ -n "${FORWARDER_PID:-}" ] || return 0
    kill -TERM "$FORWARDER_PID"
    wait "$FORWARDER_PID" || fail "forwarder's exit status is $?"
    ! ip -n a -details link show | grep -q 'prog/xdp' || fail "an XDP program is left behind"
    ! ip -n a link show dev forwarder0 >/dev/null 2>&1 || fail "forwarder0 is left behind"
    [ -z "$(ip -n a route show table all proto 151)" ] || fail "routes are left behind"
    ! grep -E ' (WARN|ERROR) ' /tmp/forwarder.log || fail "warnings"
    sed -n 's/^/   /p' /tmp/forwarder.log | tail -n 40
}

main
