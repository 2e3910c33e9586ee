//! What a person sees while a measurement takes its time.

use std::io::{IsTerminal as _, stderr};

/// Writes over the last line of a terminal.
pub fn status(text: &str) {
    if stderr().is_terminal() {
        eprint!("\r{text:<70}\r");
    }
}
