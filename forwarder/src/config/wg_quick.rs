//! wg-quick.
