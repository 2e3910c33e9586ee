//! What befalls the sites and the network, and who speaks.

use rand::RngExt as _;

use super::{Event, World};
use crate::Time;
use crate::network::Weather;
use crate::site::links_of;

impl World {
    pub(super) fn replay(&mut self) {
        let lives: Vec<u32> = self.sites.iter().map(|site| site.life).collect();
        if let Some(datagram) = self.observer.replay(&self.plan, &self.network, &lives, &mut self.rng) {
            self.summary.replays += 1;
            self.schedule(Time::ZERO, Event::Arrive { datagram, straggler: false });
        }
        self.after(0.0..40.0, Event::Replay);
    }

    pub(super) fn storm(&mut self) {
        (0..self.plan.links.len()).for_each(|link| self.judge.trouble_begins(link));
        let cut = self.rng.random_bool(0.4);
        self.network.weather = Weather {
            loss: if cut { 1.0 } else { self.rng.random_range(0.0..0.7) },
            reordered: self.rng.random_range(0.0..0.3),
            straggling: if self.rng.random_bool(0.3) { 0.02 } else { 0.0 },
            mute: None,
        };
        if cut && self.rng.random() {
            // Nobody is heard, or one site only.
            let mute = Some(self.rng.random_range(0..self.sites.len()));
            self.network.weather = Weather { mute, ..Weather::default() };
        }
        self.judge.note(format_args!("{:?}", self.network.weather));
        self.after(2.0..200.0, Event::Calm);
    }

    pub(super) fn calm(&mut self) {
        self.judge.note("calm");
        self.network.weather = Weather::default();
        (0..self.plan.links.len()).for_each(|link| self.judge.trouble_ends(link));
        self.after(60.0..600.0, Event::Storm);
    }

    pub(super) fn talk(&mut self, link: usize) {
        let (talk, length) = self.talks[link].next(&self.plan, &mut self.rng);
        self.talks[link] = talk;
        self.judge.note(format_args!("link {link}: sides speak {:?}", talk.speaks));
        self.judge.talking(link, talk.speaks != [false; 2]);
        for side in 0..2 {
            if talk.speaks[side] {
                self.after(0.0..0.5, Event::Offer { link, side, phase: talk.phase });
            }
        }
        self.schedule(length, Event::Talk { link });
    }

    pub(super) fn mishap(&mut self) {
        self.after(60.0..600.0, Event::Mishap);
        let now = self.judge.now;
        let site = self.rng.random_range(0..self.sites.len());
        if self.sites[site].gateway.is_none() || self.sites[site].is_asleep(now) {
            return;
        }
        match self.rng.random_range(0..3) {
            0 => {
                links_of(&self.plan, site).for_each(|link| self.judge.trouble_begins(link));
                self.sites[site].stop();
                self.judge.note(format_args!("site {site} stops"));
                self.summary.restarts += 1;
                let down = self.random(0.0..30.0);
                self.schedule(down, Event::Start { site });
                self.schedule(down, Event::Wake { site });
            }
            1 => {
                links_of(&self.plan, site).for_each(|link| self.judge.trouble_begins(link));
                let length = self.random(1.0..400.0);
                self.sites[site].sleep(now, length);
                self.judge.note(format_args!("site {site} sleeps {:.3} s", length.as_secs_f64()));
                self.summary.sleeps += 1;
                self.schedule(length, Event::Wake { site });
            }
            _ if self.plan.nat => {
                (0..self.plan.links.len()).for_each(|link| self.judge.trouble(link));
                self.network.rebind(&mut self.rng);
                self.judge.note("the NAT forgets");
                self.summary.rebindings += 1;
            }
            _ => {}
        }
    }
}
