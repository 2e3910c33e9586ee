//! TUN as a port.
