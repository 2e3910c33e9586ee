//! What threads share state by: std's types, or loom's when a test tries every order of their steps
//! (feature `model`).

#[cfg(all(test, feature = "model"))]
pub(crate) use loom::sync::{Mutex, atomic};
#[cfg(not(all(test, feature = "model")))]
pub(crate) use std::sync::{Mutex, atomic};
