//! What `cargo xtask` is made of; the tests that need a kernel use the labs.

pub mod bench;
pub mod build_ebpf;
pub mod command;
pub mod demo;
pub mod elevate;
pub mod install;
pub mod lab;
pub mod lab_kernel;
pub mod progress;
pub mod test;
pub mod uml;
pub mod workspace;
