//! What of a configuration file may stand in messages.

/// Text from a file as it may stand in a message: printable and short.
pub fn shown(text: &str) -> String {
    let escaped: String = text.escape_debug().take(64).collect();
    escaped.replace("\\'", "'").replace("\\\"", "\"")
}

/// [`shown`], unless a word is long enough to hold a key, which may be a private one that went astray, with a slip
/// of the keyboard before, in or after it.
pub fn shown_unless_key(text: &str) -> String {
    /// Digits of a key in base64, without the `=`.
    const KEY: usize = 43;
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"+/=".contains(c));
    if words.any(|word| word.len() >= KEY) { "(a key)".to_owned() } else { shown(text) }
}
