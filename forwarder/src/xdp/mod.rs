//! The XDP program: load, attach, maps, queries.
