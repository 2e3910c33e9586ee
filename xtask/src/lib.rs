//! What `cargo xtask` is made of; the tests that need a kernel use the labs.

pub mod bench;
pub mod build_ebpf;
pub mod command;
pub mod demo;
pub mod elevate;
pub mod fuzz;
pub mod install;
pub mod json;
pub mod lab;
pub mod lab_kernel;
pub mod progress;
#[cfg(test)]
mod protocol_table;
pub mod sim;
pub mod test;
pub mod uml;
pub mod workspace;
