use proptest::prelude::*;

use super::*;

const KEY: &str = "188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52";
const OTHER: &str = "58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376";

/// Every request in `text`, to the end or the first one that cannot be got over.
fn parse(text: &[u8], piece: usize) -> Vec<Result<Request, Errno>> {
    let (mut parser, mut requests) = (Parser::default(), Vec::new());
    for mut piece in text.chunks(piece) {
        while let Some(request) = parser.read(&mut piece) {
            requests.push(request);
            if matches!(requests.last(), Some(Err(Errno::EMSGSIZE))) {
                return requests;
            }
        }
        assert!(piece.is_empty());
    }
    requests
}

fn one(text: &str) -> Result<Request, Errno> {
    let mut requests = parse(text.as_bytes(), 7);
    assert_eq!(requests.len(), 1, "{text}");
    requests.remove(0)
}

fn set(lines: &str) -> Result<Set, Errno> {
    match one(&format!("set=1\n{lines}\n"))? {
        Request::Set(set) => Ok(*set),
        Request::Get => panic!("a set"),
    }
}

fn bytes(hex: &str) -> [u8; 32] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

/// As the protocol's page has it, with every key that there is.
#[test]
fn a_set_with_everything() {
    let set = set(&format!(
        "private_key={KEY}\nlisten_port=12912\nfwmark=4294967295\nreplace_peers=true\n\
         public_key={OTHER}\nupdate_only=true\nprotocol_version=1\npreshared_key={KEY}\n\
         endpoint=[abcd:23::33%2]:51820\npersistent_keepalive_interval=111\nreplace_allowed_ips=true\n\
         allowed_ip=192.168.4.4/24\nallowed_ip=-fd00::1/64\nallowed_ip=0.0.0.0/0\n\
         public_key={KEY}\nremove=true\n"
    ))
    .unwrap();
    assert_eq!(set.private_key.as_ref().unwrap().0, bytes(KEY));
    assert_eq!((set.listen_port, set.fwmark, set.replace_peers), (Some(12912), Some(u32::MAX), true));
    let [peer, gone] = &set.peers[..] else { panic!("two peers") };
    assert_eq!(peer.public_key.0, bytes(OTHER));
    assert!(peer.update_only && peer.replace_allowed_ips && !peer.remove);
    assert_eq!(***peer.preshared_key.as_ref().unwrap(), bytes(KEY));
    assert_eq!(peer.endpoint, Some("[abcd:23::33%2]:51820".parse().unwrap()));
    assert_eq!(peer.persistent_keepalive, Some(Duration::from_secs(111)));
    let allowed = [
        PrefixChange::Add("192.168.4.0/24".parse().unwrap()),
        PrefixChange::Remove("fd00::/64".parse().unwrap()),
        PrefixChange::Add("0.0.0.0/0".parse().unwrap()),
    ];
    assert_eq!(peer.allowed_ips, allowed);
    assert!(gone.remove && gone.public_key.0 == bytes(KEY) && gone.preshared_key.is_none());
}

#[test]
fn what_is_absent_changes_nothing() {
    let set = set("").unwrap();
    assert!(set.private_key.is_none() && set.listen_port.is_none() && set.fwmark.is_none());
    assert!(!set.replace_peers && set.peers.is_empty());
}

#[test]
fn requests_follow_one_another() {
    let text =
        format!("get=1\n\nset=1\nlisten_port=1\n\nset=1\nnonsense\npublic_key={KEY}\n\nget=1\n\nget=1\n");
    for piece in 1..text.len() {
        let requests = parse(text.as_bytes(), piece);
        let [Ok(Request::Get), Ok(Request::Set(set)), Err(Errno::EINVAL), Ok(Request::Get)] = &requests[..]
        else {
            panic!("{requests:?}")
        };
        assert_eq!(set.listen_port, Some(1));
    }
}

#[test]
fn mistakes_are_refused() {
    let peer = format!("public_key={KEY}\n");
    for wrong in [
        "\n",
        "get=2\n\n",
        "set=2\n\n",
        "get\n\n",
        "status=1\n\n",
        "get=1\nlisten_port=1\n\n",
        "GET=1\n\n",
        "set=1\r\n\n",
        "set=1\nset=1\n\n",
    ] {
        assert_eq!(one(wrong).unwrap_err(), Errno::EINVAL, "{wrong:?}");
    }
    for wrong in [
        "listen_port=65536",
        "listen_port=+1",
        "listen_port=-1",
        "listen_port=",
        "listen_port=0x10",
        "fwmark=4294967296",
        "replace_peers=false",
        "replace_peers=1",
        "private_key=00",
        "private_key=",
        "endpoint=1.2.3.4:5",
        "allowed_ip=10.0.0.0/8",
        "nonsense=1",
        "listen_port",
        "listen_port =1",
        "public_key=zz8515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52",
    ] {
        assert_eq!(set(&format!("{wrong}\n")).unwrap_err(), Errno::EINVAL, "{wrong}");
    }
    for wrong in [
        "remove=false",
        "update_only=yes",
        "preshared_key=00",
        "endpoint=1.2.3.4",
        "endpoint=example.com:1",
        "endpoint=1.2.3.4:65536",
        "endpoint=::1:5",
        "persistent_keepalive_interval=65536",
        "persistent_keepalive_interval=off",
        "replace_allowed_ips=false",
        "allowed_ip=10.0.0.0",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=fd00::/129",
        "allowed_ip=--10.0.0.0/8",
        "allowed_ip=+10.0.0.0/8",
        "listen_port=1",
        "private_key=",
        "tx_bytes=1",
    ] {
        assert_eq!(set(&format!("{peer}{wrong}\n")).unwrap_err(), Errno::EINVAL, "{wrong}");
    }
    assert_eq!(set(&format!("{peer}protocol_version=2\n")).unwrap_err(), Errno::EPFNOSUPPORT);
}

#[test]
fn lines_and_requests_are_bounded() {
    let padded = |zeros: usize| format!("listen_port={}1\n", "0".repeat(zeros));
    assert_eq!(set(&padded(MAX_LINE - 13)).unwrap().listen_port, Some(1));
    assert_eq!(set(&padded(MAX_LINE - 12)).unwrap_err(), Errno::EINVAL);

    let line = format!("public_key={KEY}\n");
    let fits = "set=1\n".to_owned() + &line.repeat((MAX_REQUEST - 7) / line.len());
    let padding = format!("{}\n", "x".repeat(MAX_REQUEST - fits.len() - 2));
    assert!(one(&(fits.clone() + "\n")).is_ok());
    assert_eq!(one(&format!("{fits}{padding}\n")).unwrap_err(), Errno::EINVAL);
    assert_eq!(one(&format!("{fits}x{padding}\n")).unwrap_err(), Errno::EMSGSIZE);
    // The bound is for one request, not for a connection.
    let requests = parse(&(fits + "\n").repeat(2).into_bytes(), 4096);
    assert!(requests.len() == 2 && requests.iter().all(Result::is_ok));
}

#[test]
fn keys_are_not_printed() {
    let set = set(&format!("private_key={KEY}\npublic_key={OTHER}\npreshared_key={KEY}\n")).unwrap();
    assert!(!format!("{set:?}").contains(&format!("{:?}", bytes(KEY))));
}

/// A line that means something, or nearly.
fn line() -> impl Strategy<Value = String> {
    let key = prop_oneof![Just(KEY.to_owned()), Just("0".repeat(64)), "[0-9a-fA-F]{62,65}"];
    let keys = prop_oneof![Just("private_key"), Just("public_key"), Just("preshared_key")];
    prop_oneof![
        (keys, key).prop_map(|(name, key)| format!("{name}={key}")),
        any::<(std::net::IpAddr, u8)>().prop_map(|(ip, bits)| format!("allowed_ip={ip}/{}", bits % 140)),
        any::<std::net::SocketAddr>().prop_map(|endpoint| format!("endpoint={endpoint}")),
        "(listen_port|fwmark|persistent_keepalive_interval|protocol_version)=[0-9]{1,10}",
        "(remove|update_only|replace_peers|replace_allowed_ips)=(true|true|true|false)",
        "(get|set)=[12]",
        Just(String::new()),
        "[a-z_]{0,5}=?[ -~]{0,5}",
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_survived(text in proptest::collection::vec(any::<u8>(), 0..600), piece in 1_usize..50) {
        parse(&text, piece);
    }

    /// However the bytes come, what is read is the same.
    #[test]
    fn pieces_do_not_matter(lines in proptest::collection::vec(line(), 0..40), piece in 1_usize..200) {
        let text = format!("set=1\n{}\n\nget=1\n\n", lines.join("\n"));
        let whole = format!("{:?}", parse(text.as_bytes(), text.len()));
        prop_assert_eq!(format!("{:?}", parse(text.as_bytes(), piece)), whole);
    }
}
