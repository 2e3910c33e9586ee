//! `forwarder`.

fn main() {}
