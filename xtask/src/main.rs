//! xtask
mod lab_kernel;
mod uml;

fn main() {}
