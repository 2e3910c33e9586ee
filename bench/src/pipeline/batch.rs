//! The packets that are carried, round after round.

use anyhow::{Context as _, ensure};
use forwarder::pipeline::{Snapshot, flow, parse};
use forwarder::port::BURST;
use rand::RngExt as _;

use super::site::Site;
use crate::packet::{ETHERNET, HEADERS, checksum, headers};
use crate::size::Size;

/// Offset and initial value of the TTL in a frame.
const TTL: (usize, u8) = (ETHERNET + 8, 64);

/// A burst of the host of site 1, each packet a flow of its own.
pub struct Batch {
    /// As the host sends it.
    pub frames: Vec<Vec<u8>>,
    /// As the other site's hosts receive it.
    pub delivered: Vec<Vec<u8>>,
    /// Each packet's path.
    pub paths: Vec<usize>,
}

impl Batch {
    /// A burst of that inner IP length, each packet to one of so many hosts.
    ///
    /// # Errors
    /// The pipeline would not carry it.
    pub fn new(size: Size, hosts: u8, snapshot: &Snapshot) -> anyhow::Result<Self> {
        let hosts: Vec<u8> = (0..BURST).map(|_| rand::rng().random_range(0..hosts)).collect();
        let frame =
            |(position, host): (u16, u8)| frame(size.of(0, position.into()).into(), 10_000 + position, host);
        let frames: Vec<_> = (0_u16..).zip(hosts.iter().copied()).map(frame).collect();
        let path = |frame: &Vec<u8>| {
            let packet = &frame[ETHERNET..];
            let buckets = &snapshot.groups[0].buckets;
            let bucket = flow::bucket(parse::ip(packet)?, packet, buckets.len());
            Some(buckets[bucket].index())
        };
        let paths: Option<Vec<_>> = frames.iter().map(path).collect();
        let delivered = frames.iter().zip(&hosts).map(|(frame, &host)| {
            let mut frame = after(frame, 2);
            frame[..ETHERNET].copy_from_slice(&Site(2).delivered(host));
            frame
        });
        let delivered = delivered.collect();
        let paths = paths.context("the batch's headers are wrong")?;
        ensure!((0..super::site::PATHS).all(|path| paths.contains(&path)), "a path would have no packet");
        Ok(Self { frames, delivered, paths })
    }

    /// The packet at this position as it is sealed.
    pub fn plaintext(&self, position: usize) -> Vec<u8> {
        after(&self.frames[position], 1).split_off(ETHERNET)
    }
}

fn frame(size: usize, port: u16, host: u8) -> Vec<u8> {
    let mut frame = headers(&Site(1).route(host), (port, 9), size as u16).to_vec();
    frame.extend((HEADERS..ETHERNET + size).map(|at| at as u8 ^ port as u8));
    frame
}

/// The frame's packet after that many hops.
fn after(frame: &[u8], hops: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let (at, ttl) = TTL;
    frame[at] = ttl - hops;
    let header = &mut frame[ETHERNET..][..20];
    header[10..12].fill(0);
    let checksum = checksum(header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame
}
