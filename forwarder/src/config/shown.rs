//! What of a configuration file may stand in messages.

/// Text from a file as it may stand in a message: printable and short.
pub fn shown(text: &str) -> String {
    let escaped: String = text.escape_debug().take(64).collect();
    escaped.replace("\\'", "'").replace("\\\"", "\"")
}

/// [`shown`], unless it may hold a key: a private one may have gone astray, with a slip of the keyboard in it.
pub fn shown_unless_key(text: &str) -> String {
    if may_hold_key(text) { "(a key)".to_owned() } else { shown(text) }
}

/// Whether a text has nearly as many digits of base64 as a key, wherever they stand. An IPv6 prefix has 35 at most.
pub fn may_hold_key(text: &str) -> bool {
    /// A key has 43, and a `=`.
    const KEY: usize = 40;
    text.bytes().filter(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte)).count() >= KEY
}
