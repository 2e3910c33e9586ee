//! Memory port.
