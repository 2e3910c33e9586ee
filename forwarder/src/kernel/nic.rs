//! NIC facts.
