//! The XDP program in the kernel, without a NIC: frames go in by `BPF_PROG_TEST_RUN`; the action and
//! the counter tell what the program decided. Loaded by libbpf, whose reading of the object is not
//! aya's. Needs root.
//!
//! The environment variable `STEER_OBJECT` names another object to test than the committed one.
#![allow(clippy::unwrap_used)]

mod frames;
mod lies;
mod links;
mod messages;
mod packets;
mod steer;
