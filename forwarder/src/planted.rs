//! Bugs that show whether a fuzz target finds any.

/// Whether this bug is planted. Only in a build with the feature `fuzzing` and with the bug's name in
/// `FORWARDER_PLANTED_BUG` while it is compiled; a constant `false` everywhere else.
#[inline]
pub(crate) fn planted(bug: &str) -> bool {
    cfg!(feature = "fuzzing") && option_env!("FORWARDER_PLANTED_BUG") == Some(bug)
}
