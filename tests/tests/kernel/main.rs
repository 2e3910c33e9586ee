//! The kernel interface against a real kernel. Needs root. Each test works in a network namespace of its
//! own, made by its own thread, so that nothing reaches the machine; `ip` is the independent witness.
#![allow(clippy::unwrap_used)]

mod changing;
mod devices;
mod guard;
mod lab;
mod reading;
