//! Bugs that show that the fuzz targets find bugs, one for each.

/// Whether they are planted: only in a build with the feature `fuzzing` and with the variable
/// `FORWARDER_PLANTED_BUGS`; a constant `false` everywhere else.
pub(crate) fn planted() -> bool {
    cfg!(feature = "fuzzing") && option_env!("FORWARDER_PLANTED_BUGS").is_some()
}
