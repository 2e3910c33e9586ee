//! One trial: a rate is offered for a while, and what arrives is counted.

use std::thread;
use std::time::Duration;

use forwarder::clock::{Boottime, boottime};
use hdrhistogram::Histogram;

use crate::account::{Account, Arrival};
use crate::cpu::{CpuSeconds, Reading};
use crate::packet::Stamp;
use crate::sender::Sender;
use crate::sink::Sink;

/// Sender and sink take turns on one thread and sleep in between: each wakeup serves both, and the
/// gateways have the core meanwhile. No clock tick of a kernel is a multiple of it: it would always meet the same part of a
/// turn, and take it for all of it.
pub const TURN: Duration = Duration::from_micros(487);
/// A warm-up is half as long as the trial, within these bounds.
const WARM_UP: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(300)];
/// The trial is over when nothing has arrived for this long after the last packet was sent.
const QUIET: Duration = Duration::from_millis(50);
const LONGEST_DRAIN: Duration = Duration::from_secs(1);
/// Latencies above this are counted as this, in nanoseconds.
const LONGEST_LATENCY: u64 = 10_000_000_000;

/// What a trial found. Times are in nanoseconds.
#[derive(Debug)]
pub struct Measured {
    /// Packets that were to be sent.
    pub offered: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived, duplicates and reordering within flows.
    pub account: Account,
    /// From the time when a packet was to be sent to its arrival at the sink.
    pub latency: Histogram<u64>,
    /// How much later than that packets were sent.
    pub lateness: Histogram<u64>,
    /// Packets that the sink itself lost.
    pub sink_lost: u64,
    /// What the machine spent while it was sent.
    pub cpu: CpuSeconds,
}

impl Measured {
    /// The share of the sent packets that did not arrive, from 0 to 1.
    pub fn loss(&self) -> f64 {
        1.0 - self.account.received as f64 / self.sent.max(1) as f64
    }
}

/// Offers `rate` packets a second for `duration`, after a warm-up that is not counted. It takes the
/// trial numbers `trial` and `trial + 1`.
///
/// # Errors
/// None in practice: the histogram's bounds are constant.
pub fn run(
    sender: &mut Sender,
    sink: &mut Sink,
    rate: u64,
    duration: Duration,
    trial: u16,
) -> anyhow::Result<Measured> {
    let shape = sender.shape();
    let start = boottime();
    sender.start(trial, start);
    turns(start, (duration / 2).clamp(WARM_UP[0], WARM_UP[1]), shape.tick, |elapsed| {
        sender.send_due(elapsed, rate);
        sink.drain(|_, _| ());
    });

    let counted = trial.wrapping_add(1);
    let mut account = Account::new(sender.flows());
    let mut latency = Histogram::new_with_bounds(1, LONGEST_LATENCY, 3)?;
    let lost_before = sink.lost();
    let mut arrived = |stamp: &Stamp, at: Boottime| {
        if stamp.trial == counted && account.arrive(stamp.flow, stamp.sequence) != Arrival::Foreign {
            latency.saturating_record(at.since(stamp.sent).as_nanos() as u64);
        }
    };
    let (start, cpu_before) = (boottime(), Reading::now()?);
    sender.start(counted, start);
    turns(start, duration, shape.tick, |elapsed| {
        sender.send_due(elapsed, rate);
        sink.drain(&mut arrived);
    });
    // A generator that lost its core shortly before the end may catch up.
    turns(boottime(), duration / 100, shape.tick, |_| {
        sender.send_due(duration, rate);
        sink.drain(&mut arrived);
    });
    let cpu = Reading::now()?.since(cpu_before);
    drain(sink, arrived);

    let (offered, lateness) = (shape.due(duration, rate), sender.lateness().clone());
    let sink_lost = sink.lost() - lost_before;
    Ok(Measured { offered, sent: sender.sent(), account, latency, lateness, sink_lost, cpu })
}

/// Calls `turn` every `tick` from `start` on with the time since then, the last time at `duration`.
pub fn turns(start: Boottime, duration: Duration, tick: Duration, mut turn: impl FnMut(Duration)) {
    // A sleep ends 50 us late by default. Without the privilege that would be the tick's jitter.
    let _ = nix::sys::prctl::set_timerslack(1);
    loop {
        let elapsed = boottime().since(start).min(duration);
        turn(elapsed);
        if elapsed == duration {
            return;
        }
        let elapsed = boottime().since(start);
        let next = tick * (elapsed.as_nanos() / tick.as_nanos() + 1) as u32;
        thread::sleep(next.min(duration).saturating_sub(elapsed));
    }
}

fn drain(sink: &mut Sink, mut arrived: impl FnMut(&Stamp, Boottime)) {
    let start = boottime();
    let mut last = start;
    while boottime().since(last) < QUIET && boottime().since(start) < LONGEST_DRAIN {
        if sink.drain(&mut arrived) > 0 {
            last = boottime();
        }
        thread::sleep(TURN);
    }
}
