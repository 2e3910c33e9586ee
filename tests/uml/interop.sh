#!/bin/bash
# forwarder at end a, the kernel's own WireGuard at end b: who speaks first, over IPv4 and IPv6, with and
# without a preshared key; then what else peers do to each other, and the recipe of two tunnels with ECMP.
#
#   hosta 10.1.0.2 -- lan0 [ a ] wan 198.51.100.1 == 198.51.100.2 wan [ b ] lan0 -- hostb 10.2.0.2
#
# Each line `matrix: CASE pass` is a field of the table that `cargo xtask test` prints.
# Runs as root in a User-mode Linux guest: $FORWARDER, and $FLOOD (tests/src/bin/handshake-flood.rs).
# With arguments it runs the function that they name rather than everything.
set -eu

CONFIG=/tmp/sites
LOG=/tmp/forwarder.log
COUNTERS=/tmp/counters.json
declare -A ADDRESS=([a4]=198.51.100.1 [b4]=198.51.100.2 [a6]=fd00:51::1 [b6]=fd00:51::2)
declare -A PORT=([a]=5000 [b]=6000)
family=4 key=no-psk # of the next tunnel
declare -A REKEYS # the processes of those tests, by the initiator

main() {
    for initiator in a b; do
        elsewhere rekeys $initiator >/tmp/rekeys-$initiator 2>&1 &
        REKEYS[$initiator]=$!
    done
    for family in 4 6; do
        for key in no-psk psk; do
            for initiator in a b; do
                matrix_case
            done
        done
    done
    family=4 key=no-psk
    fragments
    roaming
    restart a
    restart b
    elsewhere recipe
    # What comes then is felt at all sites: another time of day, and a flood.
    await_rekeys
    clock_back
    cookies a
    cookies b
    echo "ok"
}

# ---- the sites

# Runs a function at sites of its own: a mount namespace has names of network namespaces, and files, that no
# other one sees.
elsewhere() { # function, its arguments
    unshare --mount --net bash -c 'mount -t tmpfs tmpfs /run/netns && mount -t tmpfs tmpfs /tmp && exec "$@"' \
        bash "$0" "$@"
}

in_ns() {
    ip netns exec "$@"
}

fail() {
    echo "FAILED: $*"
    [ ! -e $LOG ] || tail -n 40 $LOG
    in_ns b wg show
    exit 1
}

make_sites() {
    local site
    for site in a b; do
        ip netns add $site
        ip netns add host$site
        ip -n $site link set lo up
        in_ns $site sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
    done
    ip link add wan netns a type veth peer name wan netns b
    for site in a b; do
        finish_checksums $site wan
        ip -n $site address add "${ADDRESS[${site}4]}/24" dev wan
        ip -n $site address add "${ADDRESS[${site}6]}/64" dev wan
        ip -n $site link set wan up
        keys $site
    done
    (umask 077 && wg genpsk >$CONFIG/psk)
    make_lan a 10.1.0
    make_lan b 10.2.0
}

# On a veth a checksum is left to a NIC that does not exist; AF_XDP at the other end would see it undone.
finish_checksums() { # namespace, device
    in_ns "$1" ethtool -K "$2" tx off txvlan off >/dev/null
}

make_lan() { # site, prefix
    ip link add lan0 netns "$1" type veth peer name eth0 netns "host$1"
    finish_checksums "host$1" eth0
    ip -n "$1" address add "$2.1/24" dev lan0
    ip -n "$1" link set lan0 up
    ip -n "host$1" address add "$2.2/24" dev eth0
    ip -n "host$1" link set eth0 up
    ip -n "host$1" route add default via "$2.1"
}

keys() { # site
    mkdir -p "$CONFIG/$1"
    (umask 077 && wg genkey >"$CONFIG/$1.key")
    wg pubkey <"$CONFIG/$1.key" >"$CONFIG/$1.pub"
}

# ---- tunnels, by the variables initiator, family and key

# Only the initiator knows where the other one is.
write_tunnel() { # site, the other one, its LAN
    local far=${ADDRESS[$2$family]}
    [ $family = 4 ] || far="[$far]"
    {
        echo "[Interface]"
        echo "PrivateKey = $(cat "$CONFIG/$1.key")"
        echo "ListenPort = ${PORT[$1]}"
        echo "[Peer]"
        echo "PublicKey = $(cat "$CONFIG/$2.pub")"
        echo "AllowedIPs = $3"
        [ $key = no-psk ] || echo "PresharedKey = $(cat $CONFIG/psk)"
        [ "$1" != $initiator ] || echo "Endpoint = $far:${PORT[$2]}"
    } >"$CONFIG/$1/wg0.conf"
    chmod 600 "$CONFIG/$1/wg0.conf"
}

start_b() {
    write_tunnel b a 10.1.0.0/24
    ip -n b link add wg0 type wireguard
    in_ns b wg setconf wg0 $CONFIG/b/wg0.conf
    ip -n b link set wg0 mtu 1420 up
    ip -n b route add 10.1.0.0/24 dev wg0
}

stop_b() {
    ip -n b link del wg0
}

start_a() {
    write_tunnel a b 10.2.0.0/24
    run_forwarder --iface wan --iface lan0 --config $CONFIG/a
}

run_forwarder() { # its options
    # Not by in_ns: a function in the background is a shell of its own, and $! would be that.
    # `wg` prefers a control socket to the kernel's device of that name: each gateway has its own folder.
    mkdir -p /run/wireguard
    RUST_LOG=debug ip netns exec a sh -c 'mount -t tmpfs tmpfs /run/wireguard; exec "$@"' sh \
        "$FORWARDER" run "$@" --counters $COUNTERS >$LOG 2>&1 &
    FORWARDER_PID=$!
    wait_until 20 "forwarder is not ready" forwarder_is_ready
}

forwarder_is_ready() {
    kill -0 $FORWARDER_PID || fail "forwarder ended before it was ready"
    grep -qws ready $LOG
}

stop_a() {
    kill -TERM $FORWARDER_PID
    wait $FORWARDER_PID || fail "forwarder's exit status is $?"
}

# Not by the clock, which goes back in one of the tests.
wait_until() { # seconds, complaint, condition
    local tries=$(($1 * 5)) complaint=$2
    shift 2
    until "$@"; do
        [ $((tries--)) -gt 0 ] || fail "$complaint"
        sleep 0.2
    done
}

# ---- traffic

# The host of the site $1 reaches the other one; the first pings may have to bring the tunnel up.
reach() { # site, seconds
    local from=$1 limit=${2:-20}
    if [ $from = a ]; then far=10.2.0.2; else far=10.1.0.2; fi
    wait_until "$limit" "host$from does not reach $far" answered
}

answered() {
    in_ns host$from ping -q -c 1 -W 1 $far >/dev/null
}

expect_pings() { # site, ping's options
    local from=$1 far summary
    shift
    if [ $from = a ]; then far=10.2.0.2; else far=10.1.0.2; fi
    summary=$(in_ns host$from ping -q -i 0.2 -W 2 "$@" $far | grep transmitted) || true
    case "$summary" in
    *" 0% packet loss"*) echo "   host$from -> $far $*: $summary" ;;
    *) fail "ping host$from -> $far $*: ${summary:-no answer}" ;;
    esac
}

latest_handshake() {
    in_ns b wg show wg0 latest-handshakes | cut -f 2
}

# A counter of forwarder, by its name in the JSON; 0 when it is not there.
counter() {
    rm -f $COUNTERS
    kill -USR1 $FORWARDER_PID
    wait_until 5 "forwarder writes no counters" [ -e $COUNTERS ]
    local value
    value=$(grep -o "\"$1\":[0-9]*" $COUNTERS | head -n 1 | cut -d : -f 2)
    echo "${value:-0}"
}

# ---- the matrix

matrix_case() {
    local role=responds
    [ $initiator = a ] || role=initiates
    echo "== the kernel $role, IPv$family, $key"
    start_b
    start_a
    if [ $initiator = a ]; then reach a; reach b; else reach b; reach a; fi
    expect_pings a -c 5
    expect_pings b -c 5
    expect_pings a -c 3 -s 1392
    stop_a
    stop_b
    echo "matrix: kernel $role IPv$family $key pass"
}

# ---- and what else

# The initiator renews the session when it is 120 s old, and again, while its host pings the other one.
rekeys() { # the initiator
    local responder=b first
    [ "$1" = a ] || responder=a
    initiator=$1
    watch initiations "udp[8:4] = 0x01000000 and src host ${ADDRESS[${responder}4]}"
    start_b
    start_a
    reach $initiator
    first=$(latest_handshake)
    expect_pings $initiator -c 1230
    [ "$(latest_handshake)" -ge $((first + 2 * 119)) ] || fail "no two new handshakes"
    [ "$(seen initiations)" = 0 ] || fail "the responder has initiated"
    stop_watching
    stop_a
    stop_b
}

await_rekeys() {
    for initiator in a b; do
        echo "== two rekeys by end $initiator"
        if wait ${REKEYS[$initiator]}; then cat /tmp/rekeys-$initiator; else cat /tmp/rekeys-$initiator; exit 1; fi
    done
}

# The kernel's outer packets may be fragmented; forwarder's slow path takes them.
fragments() {
    for family in 4 6; do
        echo "== outer fragments over IPv$family"
        initiator=a
        start_b
        start_a
        ip -n b -$family route add "${ADDRESS[a$family]}" dev wan mtu 1280
        reach a
        expect_pings a -c 5 -s 1300
        expect_pings b -c 5 -s 1300
        [ "$(counter pass_fragment)" -gt 0 ] || fail "nothing was fragmented"
        ip -n b -$family route del "${ADDRESS[a$family]}" dev wan
        stop_a
        stop_b
    done
    family=4
}

roaming() {
    echo "== the kernel moves to another port"
    initiator=b
    start_b
    start_a
    reach b
    local handshake
    handshake=$(latest_handshake)
    in_ns b wg set wg0 listen-port 40000
    reach b
    expect_pings a -c 5
    [ "$(latest_handshake)" = "$handshake" ] || fail "this was no roaming"
    stop_a
    stop_b
}

# The peer forgets its session. It has something to say itself, or our end notices its silence.
restart() { # who speaks first afterwards
    echo "== the kernel restarts, end $1 speaks first"
    initiator=a
    [ "$1" = a ] || initiator=b
    start_b
    start_a
    reach $initiator
    stop_b
    start_b
    reach "$1" 40
    stop_a
    stop_b
}

# Its initiations look like replays and are refused, while ours succeed.
clock_back() {
    echo "== the clock goes back by an hour, and the kernel starts anew"
    initiator=b
    start_b
    start_a
    reach b
    stop_b
    date -s "@$(($(date +%s) - 3600))" >/dev/null
    start_b
    far=10.1.0.2 from=b
    ! answered || fail "an initiation with an old timestamp was answered"
    grep -q 'refused a handshake message.*Replayed' $LOG || fail "the kernel has sent no initiation"
    [ "$(latest_handshake)" = 0 ] || fail "there is a handshake"
    reach a 40
    reach b
    stop_a
    stop_b
    date -s "@$(($(date +%s) + 3600))" >/dev/null
}

# Under a flood of initiations from many sources one end demands cookies; the other one's handshake succeeds.
cookies() { # the end that is flooded
    local flooded=$1 other=b
    [ "$1" = a ] || other=a
    echo "== end $flooded is flooded with handshakes, end $other wants one"
    initiator=$other
    ip -n a route add blackhole 10.66.0.0/16
    ip -n b route add blackhole 10.66.0.0/16
    local from=${ADDRESS[${flooded}4]} to=${ADDRESS[${other}4]}
    watch cookies "udp[8:4] = 0x03000000 and src host $from and dst host $to"
    watch with-cookie "udp[8:4] = 0x01000000 and udp[140:4] != 0 and src host $to"
    if [ $flooded = a ]; then start_a; else start_b; fi
    # Before all else in its turn: woken between its frames, the kernel's worker would keep up with them.
    ip netns exec $other chrt --fifo 1 "$FLOOD" wan "$(in_ns $flooded cat /sys/class/net/wan/address)" 10.66.0.0 \
        "$from:${PORT[$flooded]}" "$(cat $CONFIG/$flooded.pub)" >/tmp/flood.log 2>&1 &
    local flood=$!
    sleep 2
    if [ $flooded = a ]; then start_b; else start_a; fi
    reach $other 60
    kill $flood
    [ "$(seen cookies)" -gt 0 ] || fail "no cookie reply"
    [ "$(seen with-cookie)" -gt 0 ] || fail "no initiation with a cookie"
    echo "   $(seen cookies) cookie replies, $(seen with-cookie) initiations with a cookie"
    stop_watching
    stop_a
    stop_b
    ip -n a route del blackhole 10.66.0.0/16
    ip -n b route del blackhole 10.66.0.0/16
}

# At end b, where no XDP program hides a frame.
watch() { # name, filter
    ip netns exec b tcpdump -i wan -n -q -t -l --immediate-mode "$2" >"/tmp/seen-$1" 2>"/tmp/watch-$1" &
    WATCHERS="${WATCHERS:-} $!"
    wait_until 10 "tcpdump does not start" grep -qs 'listening on' "/tmp/watch-$1"
}

seen() { # name
    wc -l <"/tmp/seen-$1"
}

stop_watching() {
    kill $WATCHERS
    WATCHERS=
}

# ---- the recipe

# Site B as it stands in the recipe: wg0.conf and wg1.conf of one key pair, ports 5000 and 5001 at both ends,
# `Table = off` in the second, one route over two nexthops; the ports are two of a bond with layer3+4.
# forwarder replaces site A's half.
recipe() {
    echo "== the recipe: two tunnels with ECMP at end b"
    local site i
    for site in a b; do
        ip -n $site link del wan 2>/dev/null || true
        in_ns $site sysctl -qw net.ipv4.fib_multipath_hash_policy=1
    done
    for i in 1 2; do
        ip link add eno$i netns a type veth peer name eno$i netns b
    done
    for site in a b; do
        ip -n $site link add bond0 type bond miimon 100 mode 802.3ad lacp_rate fast xmit_hash_policy layer3+4
        for i in 1 2; do
            finish_checksums $site eno$i
            ip -n $site link set eno$i master bond0
        done
        ip -n $site link set bond0 up
        ip -n $site address add "${ADDRESS[${site}4]}/24" dev bond0
    done
    wait_until 20 "LACP is not up" lacp_is_up
    recipe_tunnel a 0 172.16.0.1 b 10.2.0.0/24 ""
    recipe_tunnel a 1 172.16.1.1 b 10.2.0.0/24 "Table = off"
    recipe_tunnel b 0 172.16.0.2 a 10.1.0.0/24 ""
    recipe_tunnel b 1 172.16.1.2 a 10.1.0.0/24 "Table = off"
    for i in 0 1; do
        in_ns b wg-quick up $CONFIG/b/wg$i.conf >/tmp/wg-quick.log 2>&1 || fail "$(cat /tmp/wg-quick.log)"
    done
    # wg0.conf says no `Table = off`: its own route goes first.
    ip -n b route replace 10.1.0.0/24 nexthop dev wg0 weight 1 nexthop dev wg1 weight 1
    run_forwarder --iface bond0 --iface lan0 --config $CONFIG/a
    reach a
    reach b
    expect_pings a -c 10
    expect_pings b -c 10
    local before after
    before=$(transfers)
    in_ns hostb iperf3 --server --daemon >/dev/null # ends with the guest
    sleep 0.3
    flows ""
    flows --reverse
    after=$(transfers)
    echo "   received and sent by wg0 and wg1 before: $before; after: $after"
    paste <(tr ' ' '\n' <<<"$before") <(tr ' ' '\n' <<<"$after") | while read -r old new; do
        [ $((new - old)) -gt 50000 ] || fail "a tunnel carries no flows one way: $before; $after"
    done || exit 1
    stop_a
}

recipe_tunnel() { # site, number, address, peer's site, its LAN, what else
    cat >"$CONFIG/$1/wg$2.conf" <<EOF
[Interface]
PrivateKey = $(cat "$CONFIG/$1.key")
ListenPort = 500$2
Address = $3/32
$6

[Peer]
PublicKey = $(cat "$CONFIG/$4.pub")
Endpoint = ${ADDRESS[${4}4]}:500$2
AllowedIPs = $5
PersistentKeepalive = 10
EOF
    chmod 600 "$CONFIG/$1/wg$2.conf"
}

lacp_is_up() {
    local site i
    for site in a b; do
        for i in 1 2; do
            in_ns $site cat /sys/class/net/eno$i/bonding_slave/ad_{actor,partner}_oper_port_state
        done
    done | sort -u | tr '\n' ' ' | grep -qx '63 '
}

# Bytes received and sent: by wg0, by wg1.
transfers() {
    local i
    for i in 0 1; do
        in_ns b wg show wg$i transfer | cut -f 2,3
    done | tr '\t\n' '  ' | sed 's/ $//'
}

flows() { # iperf3's option
    local report
    report=$(in_ns hosta iperf3 --client 10.2.0.2 --udp --parallel 20 --bitrate 40k --length 250 --time 3 $1) ||
        fail "iperf3: $report"
    echo "$report" | grep 'SUM.*receiver'
    echo "$report" | grep -q 'SUM.* 0/[0-9]* (0%) *receiver' || fail "packets were lost"
}

make_sites
"${@:-main}"
