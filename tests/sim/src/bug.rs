//! Bugs to plant, one for each thing that the judge says it would notice.

use crate::Property;

/// A mistake that the gateways of a simulation make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A lane delivers authentic messages without asking the replay window.
    NoReplayWindow,
    /// Lanes never hear that a peer's endpoint has moved.
    EndpointsStay,
    /// Each initiation is sent again a second later, to be sure.
    RepeatedInitiations,
    /// A lane now and then seals a packet with the counter of the one before.
    CounterTwice,
    /// Sessions age in a clock that stands still while the machine sleeps.
    SleepingClock,
    /// A lane opens messages of expired sessions.
    AcceptsExpired,
    /// Snapshots are never freed.
    HoardsSnapshots,
    /// Packets that wait for a session are dropped when it is there.
    DropsWaiting,
    /// Messages leave before the lanes know the indices that they reveal.
    SendsBeforePublished,
    /// A message's source is believed before the replay window has seen the message.
    RoamsTooEarly,
    /// Tunnels of one key pair do not know which initiations the others took.
    TunnelsShareNothing,
    /// Packets without a session leave as they are.
    SendsInClear,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::NoReplayWindow,
        Self::EndpointsStay,
        Self::RepeatedInitiations,
        Self::CounterTwice,
        Self::SleepingClock,
        Self::AcceptsExpired,
        Self::HoardsSnapshots,
        Self::DropsWaiting,
        Self::SendsBeforePublished,
        Self::RoamsTooEarly,
        Self::TunnelsShareNothing,
        Self::SendsInClear,
    ];

    /// The property that it violates.
    pub fn violates(self) -> Property {
        match self {
            Self::NoReplayWindow => Property::DeliveredOnce,
            Self::EndpointsStay => Property::FlowsAfterHealing,
            Self::RepeatedInitiations => Property::InitiationsAreRare,
            Self::CounterTwice => Property::NonceOnce,
            Self::SleepingClock | Self::AcceptsExpired => Property::ExpiresAt180,
            Self::HoardsSnapshots => Property::WipedAt540,
            Self::DropsWaiting | Self::SendsBeforePublished => Property::NoLoss,
            Self::RoamsTooEarly | Self::TunnelsShareNothing => Property::ReplayMovesNothing,
            Self::SendsInClear => Property::NothingInClear,
        }
    }
}
