//! The loop that drives a lane.
