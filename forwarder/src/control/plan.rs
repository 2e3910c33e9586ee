//! What shall run: configuration, kernel state and NIC facts, and the topology computed from them.
