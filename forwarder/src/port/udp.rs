//! UDP sockets as a port.
