//! A peer's timers (section 6), computed from its traffic and its handshakes. Nothing here sends: the
//! peer asks what is due and does it.

use std::time::Duration;

use super::traffic::Traffic;
use super::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT};
use crate::clock::Boottime;

/// Unanswered initiations are repeated this often, and once more: 20 in all, as the kernel counts.
const MAX_RETRIES: u32 = (REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs()) as u32;
/// How much longer one side waits after initiations that crossed: more than jitter and travel, or they would
/// cross again and again.
const GIVE_WAY: Duration = Duration::from_secs(1);
/// Keys are wiped when no new session came for this long.
const WIPE_AFTER: Duration = REJECT_AFTER_TIME.saturating_mul(3);

/// What a timer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Repeat the initiation.
    Retry,
    /// Stop repeating it.
    GiveUp,
    /// Start a handshake: nothing was heard since data was sent.
    Handshake,
    /// Send an empty message.
    Keepalive,
    /// Forget all keys.
    Wipe,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    persistent_interval: Option<Duration>,
    /// Retries since a handshake was last asked for.
    retries: u32,
    retry: Option<Boottime>,
    /// When an initiation or a response was last sent.
    handshake_sent: Option<Boottime>,
    /// When we last sent or ordered something besides workers' messages.
    sent: Option<Boottime>,
    /// When a handshake message of the peer was last accepted.
    heard: Option<Boottime>,
    /// When the first initiation was sent that none was accepted after.
    unanswered: Option<Boottime>,
    silence_noticed: Option<Boottime>,
    silence: Option<Wait>,
    keepalive: Option<Wait>,
    persistent: Option<Boottime>,
    wipe: Option<Boottime>,
}

impl Timers {
    pub(super) fn new(persistent_interval: Option<Duration>) -> Self {
        Self { persistent_interval, ..Self::default() }
    }

    /// A handshake is wanted anew: retries count from here.
    pub(super) fn restart_retries(&mut self) {
        self.retries = 0;
    }

    /// Whether an initiation may be sent now; if not, it is put off until it may.
    pub(super) fn may_initiate(&mut self, now: Boottime, jitter: Duration) -> bool {
        let blocked = self.handshake_sent.map(|t| t + REKEY_TIMEOUT).filter(|&t| now < t);
        if let Some(until) = blocked {
            self.retry.get_or_insert(until + jitter);
        }
        blocked.is_none()
    }

    /// Another interval of unasked keepalives, counted from the last message.
    pub(super) fn set_persistent(&mut self, interval: Option<Duration>, now: Boottime) {
        self.persistent_interval = interval;
        self.persistent = interval.map(|_| now);
    }

    /// When the first initiation was sent that went unanswered, and after which no other of the peer's was accepted.
    pub(super) fn unanswered_since(&self) -> Option<Boottime> {
        self.unanswered
    }

    pub(super) fn initiation_sent(&mut self, now: Boottime, jitter: Duration) {
        self.unanswered.get_or_insert(now);
        self.handshake_sent = Some(now);
        self.sent = Some(now);
        self.retry = Some(now + REKEY_TIMEOUT + jitter);
    }

    pub(super) fn response_sent(&mut self, now: Boottime) {
        self.handshake_sent = Some(now);
        self.sent = Some(now);
    }

    /// Initiations crossed and cancelled each other, and the peer is to try again first.
    pub(super) fn give_way(&mut self, now: Boottime) {
        self.handshake_sent = Some(now + GIVE_WAY);
    }

    pub(super) fn handshake_heard(&mut self, now: Boottime) {
        self.heard = Some(now);
    }

    /// The peer gets what is sent to it.
    pub(super) fn reached(&mut self) {
        self.unanswered = None;
    }

    pub(super) fn session_derived(&mut self, now: Boottime) {
        self.wipe = Some(now + WIPE_AFTER);
    }

    /// Both sides have the keys.
    pub(super) fn handshake_complete(&mut self) {
        self.retries = 0;
        self.retry = None;
        self.reached();
    }

    /// Sets the timers that depend on traffic.
    pub(super) fn sweep(&mut self, now: Boottime, traffic: &Traffic, jitter: Duration) {
        let sent = traffic.sent.last().max(self.sent);
        let heard = traffic.received.last().max(self.heard);
        let noticed = heard.max(self.silence_noticed);
        let silence_after = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter;
        Wait::update(&mut self.silence, traffic.sent.last_data(), noticed, silence_after);
        Wait::update(&mut self.keepalive, traffic.received.last_data(), sent, KEEPALIVE_TIMEOUT);
        self.persistent =
            self.persistent_interval.map(|interval| sent.max(heard).map_or(now, |last| last + interval));
    }

    /// The next timer that has run out; it is off or moved on then.
    pub(super) fn pop(&mut self, now: Boottime) -> Option<Due> {
        if take_due(&mut self.wipe, now) {
            return Some(Due::Wipe);
        }
        if take_due(&mut self.retry, now) {
            return Some(self.retry_or_give_up());
        }
        if self.silence.take_if(|wait| wait.due <= now).is_some() {
            self.silence_noticed = Some(now);
            return Some(Due::Handshake);
        }
        let passive = self.keepalive.take_if(|wait| wait.due <= now).is_some();
        if passive || take_due(&mut self.persistent, now) {
            self.sent = Some(now);
            self.persistent = self.persistent_interval.map(|interval| now + interval);
            return Some(Due::Keepalive);
        }
        None
    }

    /// The earliest timer.
    pub(super) fn next(&self) -> Option<(Boottime, &'static str)> {
        let timers = [
            (self.wipe, "wipe keys"),
            (self.retry, "repeat initiation"),
            (self.silence.map(|wait| wait.due), "nothing heard"),
            (self.keepalive.map(|wait| wait.due), "keepalive"),
            (self.persistent, "persistent keepalive"),
        ];
        timers.into_iter().filter_map(|(at, name)| Some((at?, name))).min()
    }

    fn retry_or_give_up(&mut self) -> Due {
        if self.retries > MAX_RETRIES {
            self.keepalive = None;
            return Due::GiveUp;
        }
        self.retries += 1;
        Due::Retry
    }
}

/// An answer that is waited for.
#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Boottime,
    due: Boottime,
}

impl Wait {
    /// Ends the wait when there was an answer, starts one when something came after the last answer.
    fn update(wait: &mut Option<Self>, asked: Option<Boottime>, answered: Option<Boottime>, time: Duration) {
        wait.take_if(|wait| answered >= Some(wait.since));
        if let Some(since) = asked.filter(|_| wait.is_none() && asked > answered) {
            *wait = Some(Self { since, due: since + time });
        }
    }
}

fn take_due(timer: &mut Option<Boottime>, now: Boottime) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After initiations that crossed, one side may not initiate before the other's has arrived.
    #[test]
    fn who_gives_way_is_second() {
        let at = |millis| Boottime::default() + Duration::from_millis(millis);
        let jitter = Duration::from_millis(333);
        let mut sides = [Timers::new(None), Timers::new(None)];
        for timers in &mut sides {
            timers.initiation_sent(at(0), jitter);
            timers.response_sent(at(100));
        }
        sides[1].give_way(at(100));
        assert!(sides[0].may_initiate(at(5100), jitter) && !sides[1].may_initiate(at(6099), jitter));
        while sides[1].pop(at(6099)).is_some() {
            assert!(!sides[1].may_initiate(at(6099), jitter));
        }
        assert_eq!(sides[1].next().map(|(at, _)| at), Some(at(6433)));
    }
}
