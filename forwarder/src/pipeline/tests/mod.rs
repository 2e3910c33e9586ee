//! Two gateways in one process: LAN A - gateway A - three wires - gateway B - LAN B.

// The fuzz target needs a part of it.
#![cfg_attr(not(test), allow(dead_code))]
#![allow(clippy::unwrap_used)]

#[cfg(test)]
mod bursts;
#[cfg(test)]
mod carry;
mod doubles;
pub(crate) mod fuzz;
#[cfg(test)]
mod hostile;
mod packets;
#[cfg(test)]
mod refuse;
mod site;
#[cfg(test)]
mod waits;
mod world;

use std::time::Duration;

use crate::clock::Boottime;
use crate::id::{InterfaceId, PortId};

const PATHS: usize = 3;
const MTU: u16 = 1420;
const LAN: InterfaceId = InterfaceId(10);
const LAN_PORT: PortId = PortId(0);
/// Position of the TUN in a lane's ports, after the LAN and the wires.
const TUN: u16 = 4;
const UDP: u16 = 5;
const ROOM: usize = 2048;
const START: Boottime = Boottime(Duration::from_secs(1000));
