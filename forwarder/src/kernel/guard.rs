//! Fail-closed routes.
