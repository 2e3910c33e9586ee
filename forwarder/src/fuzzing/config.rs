//! Both configuration files.

use std::collections::HashSet;
use std::path::Path;

use ipnet::IpNet;

use crate::config::{ConfigError, Settings, TunnelConfig, key, wg_quick};

/// Reads `data` as a wg-quick file and as a forwarder.toml.
pub fn config(data: &[u8]) {
    let file = Path::new("file");
    match wg_quick::parse("wg0", file, data) {
        Ok(tunnel) => assert_is_right(&tunnel),
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in &errors {
                assert_is_readable(error, data);
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(error) = Settings::parse(file, text)
    {
        assert_is_readable(&error, data);
    }
}

fn assert_is_right(tunnel: &TunnelConfig) {
    let own = key::public(&tunnel.private_key);
    let keys: HashSet<_> = tunnel.peers.iter().map(|peer| peer.public_key).collect();
    assert!(keys.len() == tunnel.peers.len() && !keys.contains(&own));
    assert!(tunnel.mtu.is_none_or(|mtu| mtu >= 576));
    assert!(tunnel.private_key.0 != [0; 32]);
    for peer in &tunnel.peers {
        assert!(peer.allowed_ips.iter().all(|net| *net == IpNet::trunc(net)));
        assert!(peer.endpoint.is_none_or(|endpoint| endpoint.port() != 0));
        assert!(peer.persistent_keepalive.is_none_or(|interval| !interval.is_zero()));
        let name = peer.friendly_name.as_deref().unwrap_or_default();
        assert!(!name.contains(char::is_control));
    }
    let private = key::encode(&tunnel.private_key.0);
    assert!(!format!("{tunnel:?}").contains(private.as_str()), "a private key in Debug");
}

/// One line, which names a line that there is, and which shows no key.
fn assert_is_readable(error: &ConfigError, data: &[u8]) {
    let message = error.to_string();
    assert!(!message.contains(char::is_control), "{message:?}");
    let lines = 1 + data.iter().filter(|&&byte| byte == b'\n').count();
    assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{message}");
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"+/=".contains(c));
    let secret = words.find(|word| key::decode(word).is_ok() && message.contains(word));
    assert_eq!(secret, None, "a key in an error");
}
