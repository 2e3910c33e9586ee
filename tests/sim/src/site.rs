//! A site: a machine with its clocks, on which a gateway lives, dies and sleeps.

use std::time::Duration;

use forwarder::clock::{Boottime, Wall};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::gateway::{Clocks, Gateway};
use crate::plan::{Plan, SitePlan};
use crate::{Bug, Time};

/// Wall time at the start of the simulation, since the Unix epoch.
const EPOCH: Duration = Duration::from_secs(1_700_000_000);
/// Clocks are set by at most this much.
const STEP: Duration = Duration::from_hours(24);

/// A site.
pub struct Site {
    /// The process, while there is one.
    pub gateway: Option<Gateway>,
    /// How many processes there were before it.
    pub life: u32,
    /// The machine sleeps until then.
    pub asleep_until: Time,
    bug: Option<Bug>,
    /// Boot time at the start of the simulation.
    booted: Duration,
    /// How long the machine has slept.
    slept: Duration,
    /// Wall time at the start of the simulation, as far as the clock is right.
    wall: Duration,
    greatest_wall: Duration,
}

impl Site {
    pub fn new(bug: Option<Bug>, rng: &mut StdRng) -> Self {
        let booted = Duration::from_secs(rng.random_range(0..1_000_000));
        Self {
            gateway: None,
            life: 0,
            asleep_until: Time::ZERO,
            bug,
            booted,
            slept: Duration::ZERO,
            wall: EPOCH,
            greatest_wall: Duration::ZERO,
        }
    }

    /// Reads the clocks.
    pub fn clocks(&mut self, now: Time) -> Clocks {
        let wall = self.wall + now;
        self.greatest_wall = self.greatest_wall.max(wall);
        let boot = (self.booted + now).saturating_sub(self.lost());
        Clocks { boot: Boottime(boot), wall: Wall(wall) }
    }

    /// The time of the simulation at which the site's boot time is `boot`.
    pub fn when(&self, boot: Boottime) -> Time {
        (boot.0 + self.lost()).saturating_sub(self.booted)
    }

    /// Sets the wall clock to something else.
    pub fn set_clock(&mut self, rng: &mut StdRng) {
        let step = STEP.mul_f64(rng.random());
        self.wall = if rng.random() { self.wall + step } else { self.wall.saturating_sub(step) };
    }

    /// Starts a process. Unless `clocks_go_back`, its clock is ahead of all that the one before has read.
    pub fn start(&mut self, plan: &SitePlan, now: Time, clocks_go_back: bool, rng: &mut StdRng) {
        /// More than timestamps may be ahead of a clock that went back.
        const AHEAD: Duration = Duration::from_mins(1);
        if clocks_go_back {
            self.set_clock(rng);
        } else if self.wall + now < self.greatest_wall + AHEAD {
            self.wall = (self.greatest_wall + AHEAD).saturating_sub(now);
        }
        let clocks = self.clocks(now);
        self.gateway = Some(Gateway::new(plan, clocks, StdRng::from_rng(rng), self.bug));
    }

    /// Ends the process.
    pub fn stop(&mut self) {
        self.gateway = None;
        self.life += 1;
    }

    /// Sends the machine to sleep.
    pub fn sleep(&mut self, now: Time, length: Duration) {
        self.asleep_until = now + length;
        self.slept += length;
    }

    /// Whether nothing runs on it.
    pub fn is_asleep(&self, now: Time) -> bool {
        now < self.asleep_until
    }

    /// By how much the boot time is behind, which it never should be.
    fn lost(&self) -> Duration {
        if self.bug == Some(Bug::SleepingClock) { self.slept } else { Duration::ZERO }
    }
}

/// The links that end at a site.
pub fn links_of(plan: &Plan, site: usize) -> impl Iterator<Item = usize> {
    let peers: Vec<_> = plan.sites[site].peers.iter().map(|peer| peer.link).collect();
    peers.into_iter()
}
