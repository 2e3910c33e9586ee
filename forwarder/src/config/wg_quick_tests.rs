use proptest::prelude::*;

use super::*;

const PRIVATE: &str = "6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=";
const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1c/gjSUtNiIbYC3eOflAaQyQ=";
const OTHER: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

fn read(text: &str) -> Result<TunnelConfig, Vec<String>> {
    parse("wg0", Path::new("wg0.conf"), text.as_bytes())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// Substitutes keys for `$PRIVATE`, `$PEER`, `$OTHER`, `$OWN`.
fn filled(text: &str) -> String {
    let own = key::encode(&key::public(&PrivateKey(*key::decode(PRIVATE).unwrap())).0);
    text.replace("$PRIVATE", PRIVATE).replace("$PEER", PEER).replace("$OTHER", OTHER).replace("$OWN", &own)
}

#[test]
fn reads_everything() {
    let text = filled(concat!(
        "# site A\r\n",
        "[interface]  # any case\n",
        "PRIVATEKEY=$PRIVATE # secret\n",
        "ListenPort = 51820\n",
        "Address = 10.9.0.1/24, fd09::1/64\n",
        "Address = 10.9.1.1\n",
        "FwMark = 0xca6c\n",
        "Table = 1000\n",
        "MTU = 1400\n",
        "DNS = 10.0.0.53\n",
        "PostUp = iptables -A FORWARD -i %i -j ACCEPT\n",
        "SaveConfig = true\n",
        "\n",
        "[Peer]\n",
        "# friendly_name = berlin\n",
        "PublicKey = $PEER\n",
        "PresharedKey = $OTHER\n",
        "AllowedIPs = 10.1.2.3/16 , fd01::1/64\n",
        "allowedips = 10.3.0.1\n",
        "Endpoint = [2001:db8::7]:51821\n",
        "PersistentKeepalive = 25\n",
        "[PEER]\n",
        "PublicKey = $OTHER\n",
        "AllowedIPs =\n",
        "Endpoint = site-b.example:5000\n",
        "PersistentKeepalive = off\n",
    ));
    let config = read(&text).unwrap();
    assert_eq!(*key::encode(&config.private_key.0), PRIVATE);
    assert_eq!((config.listen_port, config.listen_port_line, config.fwmark), (51820, 4, 0xca6c));
    assert_eq!((config.mtu, config.table), (Some(1400), Table::Number(1000)));
    let nets = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(nets(&config.addresses), ["10.9.0.1/24", "fd09::1/64", "10.9.1.1/32"]);
    let ignored: Vec<_> = config.ignored.iter().map(|(l, k)| (*l, k.as_str())).collect();
    assert_eq!(ignored, [(10, "DNS"), (11, "PostUp"), (12, "SaveConfig")]);

    let [a, b] = &config.peers[..] else { panic!("two peers") };
    assert_eq!((a.line, a.friendly_name.as_deref()), (14, Some("berlin")));
    assert_eq!(*key::encode(&a.public_key.0), PEER);
    assert_eq!(*key::encode(&a.preshared_key), OTHER);
    assert_eq!(nets(&a.allowed_ips), ["10.1.0.0/16", "fd01::/64", "10.3.0.1/32"]);
    assert_eq!((a.endpoint, &a.endpoint_name), (Some("[2001:db8::7]:51821".parse().unwrap()), &None));
    assert_eq!(a.persistent_keepalive, Some(Duration::from_secs(25)));
    assert!(b.allowed_ips.is_empty() && b.friendly_name.is_none());
    assert_eq!((b.endpoint, &b.endpoint_name), (None, &Some(("site-b.example".to_owned(), 5000))));
    assert_eq!(b.persistent_keepalive, None);
}

#[test]
fn defaults() {
    let config = read(&filled("[Interface]\nPrivateKey = $PRIVATE")).unwrap();
    assert_eq!((config.listen_port, config.fwmark, config.mtu, config.table), (0, 0, None, Table::Auto));
    for (text, table) in [("off", Table::Off), ("AUTO", Table::Auto), ("main", Table::Number(254))] {
        let text = filled(&format!("[Interface]\nPrivateKey = $PRIVATE\nTable = {text}\nFwMark = off"));
        assert_eq!(read(&text).unwrap().table, table);
    }
}

/// Every kind of mistake: the text, the line, and what the message must say.
#[test]
fn mistakes_name_file_line_and_fix() {
    let interface = "[Interface]\nPrivateKey = $PRIVATE\n";
    let peer = "[Interface]\nPrivateKey = $PRIVATE\n[Peer]\nPublicKey = $PEER\n";
    for (before, line, number, says) in [
        ("", "ListenPort = 1", 1, "stands before any section"),
        ("", "[Interfaces]\nPrivateKey = $PRIVATE", 1, "unknown section [Interfaces]"),
        ("[Interface]\n", "ListenPort = 1", 1, "[Interface] has no PrivateKey"),
        ("[Interface]\n", "PrivateKey = hunter2", 2, "PrivateKey: not a key"),
        ("[Interface]\n", "PrivateKey =", 2, "PrivateKey: not a key"),
        ("[Interface]\n", "PrivateKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", 2, "all zero"),
        (interface, "just words", 3, "neither a [Section] nor"),
        (interface, "[Peer", 3, "neither a [Section] nor"),
        (interface, "Foo = 1", 3, "unknown key 'Foo'"),
        (interface, "PrivateKey = $PRIVATE", 3, "'PrivateKey' is given twice, first on line 2"),
        (interface, "[Interface]", 3, "'[Interface]' is given twice, first on line 1"),
        (interface, "ListenPort = 65536", 3, "from 0 to 65535"),
        (interface, "ListenPort =", 3, "ListenPort = (nothing) cannot be read"),
        (interface, "Address = 10.0.0.1/33", 3, "Address = 10.0.0.1/33 cannot be read"),
        (interface, "FwMark = 0xfffffffff", 3, "FwMark = 0xfffffffff"),
        (interface, "FwMark = 0x+1", 3, "FwMark"),
        (interface, "MTU = 575", 3, "from 576 to 65455"),
        (interface, "MTU = 65456", 3, "from 576 to 65455"),
        (interface, "MTU = big", 3, "from 576 to 65455"),
        (interface, "Table = vpn", 3, "`auto`, `off`, `main` or a table's number"),
        (interface, "Table = 0", 3, "Table = 0"),
        (interface, "Endpoint = 192.0.2.1:1", 3, "'Endpoint' belongs to [Peer]"),
        (interface, "[Peer]\nAllowedIPs = 10.0.0.0/8", 3, "[Peer] has no PublicKey"),
        (interface, "[Peer]\nPublicKey = x", 4, "PublicKey: not a key"),
        (interface, "[Peer]\nPublicKey = $OWN", 4, "this tunnel's own"),
        (peer, "[Peer]\nPublicKey = $PEER", 6, "the [Peer] section of line 3"),
        (peer, "ListenPort = 1", 5, "'ListenPort' belongs to [Interface]"),
        (peer, "PresharedKey = x", 5, "PresharedKey: not a key"),
        (peer, "AllowedIPs = 10.0.0.0/8, ten/8", 5, "AllowedIPs = ten/8 cannot be read"),
        (peer, "AllowedIPs = 10.0.0.0/8,", 5, "AllowedIPs = (nothing) cannot be read"),
        (peer, "Endpoint = 192.0.2.1", 5, "HOST:PORT"),
        (peer, "Endpoint = 192.0.2.1:0", 5, "HOST:PORT"),
        (peer, "Endpoint = 192.0.2.1:70000", 5, "HOST:PORT"),
        (peer, "Endpoint = :51820", 5, "HOST:PORT"),
        (peer, "Endpoint = 2001:db8::7:51820", 5, "[IPV6]:PORT"),
        (peer, "PersistentKeepalive = often", 5, "seconds from 0 to 65535, or `off`"),
        (peer, "Mystery = 1", 5, "unknown key 'Mystery'"),
    ] {
        let text = filled(&format!("{before}{line}\n"));
        let errors = read(&text).unwrap_err();
        let start = format!("wg0.conf:{number}: ");
        let found = errors.iter().find(|e| e.starts_with(&start) && e.contains(says));
        assert!(found.is_some(), "{line:?}: {errors:#?} lacks {start}...{says}");
        assert!(errors.iter().all(|e| e.lines().count() == 1 && e.matches(": ").count() >= 2), "{errors:?}");
    }
    assert_eq!(
        read("").unwrap_err(),
        ["wg0.conf: there is no [Interface] section: add one with a PrivateKey"]
    );
}

#[test]
fn all_mistakes_are_reported_in_order() {
    let text =
        "[Peer]\nEndpoint = x\n[Interface]\nMTU = 1\nPrivateKey = no\n[What]\nskipped\n[Peer]\nFoo=1\n";
    let lines: Vec<_> =
        read(text).unwrap_err().iter().map(|e| e.split(':').nth(1).unwrap().to_owned()).collect();
    assert_eq!(lines, ["1", "2", "4", "5", "6", "8", "9"]);
}

#[test]
fn bytes_that_are_not_text_name_their_line() {
    let errors = parse("wg0", Path::new("wg0.conf"), b"[Interface]\n# ok\n\xff").unwrap_err();
    assert_eq!(errors[0].to_string(), "wg0.conf:3: not UTF-8 text: save the file as UTF-8");
}

#[test]
fn secrets_stay_out_of_messages_and_debug_output() {
    for line in [
        PRIVATE,
        "PrivatKey = $PRIVATE",
        "PrivateKey = $PRIVATE=",
        "PublicKey = $PRIVATE",
        "ListenPort = $PRIVATE",
        "Address = 10.0.0.1, $PRIVATE # astray",
        "[$PRIVATE]",
        "Address = 19$PRIVATE",
        "[x$PRIVATE]",
        &format!("Address = {} {}", &PRIVATE[..21], &PRIVATE[21..]),
        &format!("Address = {}", &PRIVATE[..42]),
    ] {
        let errors =
            read(&filled(&format!("[Interface]\n{line}\n[Peer]\nPresharedKey = $PRIVATE!"))).unwrap_err();
        assert!(!errors.iter().any(|e| e.contains(&PRIVATE[..8])), "{errors:?}");
    }
    // Names are logged, and asked for.
    for host in [PRIVATE, &PRIVATE[..43]] {
        let errors = read(&filled(&format!(
            "[Interface]\nPrivateKey = $PRIVATE\n[Peer] # friendly_name = {host}\nPublicKey = $PEER\nEndpoint = {host}:1"
        )));
        let errors = errors.unwrap_err();
        assert!(!errors.iter().any(|e| e.contains(host)), "{errors:?}");
    }
    let text = filled(
        "[Interface]\nPrivateKey = $PRIVATE\n[Peer] # friendly_name = $PRIVATE\nPublicKey = $PEER\nPresharedKey = $OTHER",
    );
    let shown = format!("{:?}", read(&text).unwrap());
    let first = key::decode(PRIVATE).unwrap()[0];
    assert!(!shown.contains("private_key") && !shown.contains("preshared"), "{first} {shown}");
    assert!(!shown.contains(PRIVATE), "{shown}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse("wg0", Path::new("wg0.conf"), &bytes);
    }

    /// Lines made of the format's own pieces reach deeper than bytes do. Whatever comes out is either a
    /// configuration or one-line messages that name the file.
    #[test]
    fn random_statements_never_panic(lines in proptest::collection::vec(statement(), 0..24)) {
        if let Err(errors) = read(&filled(&lines.join("\n"))) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(error.starts_with("wg0.conf:") && error.lines().count() == 1, "{error:?}");
            }
        }
    }
}

fn statement() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "[Interface]",
        "[Peer]",
        "[",
        "]",
        "PrivateKey",
        "ListenPort",
        "Address",
        "FwMark",
        "MTU",
        "Table",
        "DNS",
        "PublicKey",
        "PresharedKey",
        "AllowedIPs",
        "Endpoint",
        "PersistentKeepalive",
        "# friendly_name",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "$PRIVATE",
            "$PEER",
            "$OTHER",
            "$OWN",
            "off",
            "auto",
            "0x",
            "1",
            "65535",
            "10.0.0.0/8,",
            "[::1]:1",
            "[]:1",
            "[::1%lo]:1",
            "::1",
            ":",
            "=",
            "#",
            "",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,12}",
        any::<String>(),
    ];
    (key, prop::sample::select(vec!["", "=", " = "]), value).prop_map(|(k, e, v)| format!("{k}{e}{v}"))
}
