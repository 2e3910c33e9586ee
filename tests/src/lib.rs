//! What the tests share.

pub mod frames;
