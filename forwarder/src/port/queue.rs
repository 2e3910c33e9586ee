//! Queues between threads as ports.
