//! What the fuzz targets run: functions that take any bytes, and panic when a promise is broken.
//!
//! `tests/fuzz` has an entry point of libFuzzer's for each, and the inputs that reach the most code. The
//! tests here run each over all these inputs, and over seeded mutations of them, without libFuzzer.

#![allow(clippy::unwrap_used)]

mod aead;
mod config;
mod handshake;
mod reader;
#[cfg(test)]
mod smoke;
mod uapi;
mod wire;

pub use aead::aead;
pub use config::config;
pub use handshake::handshake;
pub(crate) use reader::Reader;
pub use uapi::uapi;
pub use wire::wire;

/// Runs the pipeline of two gateways in memory under what `data` says.
pub fn pipeline(data: &[u8]) {
    crate::pipeline::tests::fuzz::pipeline(data);
}
