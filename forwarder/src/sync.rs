//! What threads share state by: std's types, or loom's when a test tries every order of their steps
//! (feature `model`).

use std::sync::{MutexGuard, PoisonError};

#[cfg(all(test, feature = "model"))]
pub(crate) use loom::sync::{Mutex, atomic};
#[cfg(not(all(test, feature = "model")))]
pub(crate) use std::sync::{Mutex, atomic};

/// Locks one of std's mutexes; that another thread panicked while it held it is no reason to stop.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
