//! What the eavesdroppers on the underlay must have seen.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::lab::PATIENCE;
use xtask::lab::eavesdrop::Eavesdropper;
use xtask::progress::wait_until;

pub fn wait_frames(ears: &Eavesdropper, count: usize) -> Result<()> {
    let seen = wait_until(PATIENCE, || Ok(ears.frames()?.len() >= count))?;
    ensure!(seen, "nothing was seen");
    Ok(())
}

pub fn assert_silent(ears: Eavesdropper) -> Result<()> {
    let frames = last_frames(ears)?;
    ensure!(frames.is_empty(), "{} frames in clear, the first: {}", frames.len(), frames[0]);
    Ok(())
}

/// No frame in clear but the datagrams of the phase `allowed`.
pub fn assert_clear_only_in(allowed: u16, ears: Eavesdropper) -> Result<()> {
    let mut frames = last_frames(ears)?;
    frames.retain(|frame| !frame.contains(&format!(".{allowed}: UDP")));
    ensure!(frames.is_empty(), "{} frames in clear, the first: {}", frames.len(), frames[0]);
    Ok(())
}

fn last_frames(ears: Eavesdropper) -> Result<Vec<String>> {
    // What was sent last is still on its way to the listeners.
    thread::sleep(Duration::from_millis(200));
    ears.finish()
}
