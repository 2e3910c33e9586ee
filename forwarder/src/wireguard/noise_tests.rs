//! The handshake against an independent implementation of Noise, `snow`. It knows no macs, indices or
//! timestamps: those are between the fields compared here, or are its payload.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use snow::resolvers::{DefaultResolver, FallbackResolver, RingResolver};
use snow::{HandshakeState, StatelessTransportState};

use super::*;
use crate::aead;
use crate::wireguard::message::{RESPONSE_LEN, TYPE_RESPONSE};

/// Where ephemeral, static key and timestamp stand in an initiation.
const INITIATION: std::ops::Range<usize> = 8..116;
/// Where ephemeral and empty payload stand in a response.
const RESPONSE: std::ops::Range<usize> = 12..60;

/// All that goes into a handshake.
#[derive(Clone, Debug)]
struct Case {
    /// Private keys.
    initiator: [u8; 32],
    responder: [u8; 32],
    /// All zero when there is none, which is how the protocol has it.
    preshared: [u8; 32],
    /// From which the ephemeral keys come.
    seeds: [u64; 2],
    timestamp: [u8; 12],
    /// Session indices.
    indices: [u32; 2],
}

fn cases() -> impl Strategy<Value = Case> {
    let preshared = proptest::option::of(any::<[u8; 32]>()).prop_map(Option::unwrap_or_default);
    let keys = (any::<[u8; 32]>(), any::<[u8; 32]>(), preshared);
    (keys, any::<[u64; 2]>(), any::<[u8; 12]>(), any::<[u32; 2]>()).prop_map(
        |((initiator, responder, preshared), seeds, timestamp, indices)| Case {
            initiator,
            responder,
            preshared,
            seeds,
            timestamp,
            indices,
        },
    )
}

impl Case {
    /// One side: its own identity, and what it knows of the other.
    fn side(&self, own: [u8; 32], other: [u8; 32]) -> (Identity, PeerKeys) {
        let identity = Identity::new(&PrivateKey(own));
        let peer = PeerKeys::new(&identity, PrivateKey(other).public(), &self.preshared);
        (identity, peer.expect("a key of full order"))
    }

    fn initiator(&self) -> (Identity, PeerKeys) {
        self.side(self.initiator, self.responder)
    }

    fn responder(&self) -> (Identity, PeerKeys) {
        self.side(self.responder, self.initiator)
    }

    fn initiate(&self) -> (Initiation, Initiated) {
        let (identity, peer) = self.initiator();
        let ephemeral = Box::new(StaticSecret::from(ephemeral(self.seeds[0])));
        initiate(&identity, &peer, self.indices[0], Tai64n(self.timestamp), ephemeral).expect("full order")
    }

    fn snow_initiator(&self) -> HandshakeState {
        let remote = PrivateKey(self.responder).public();
        let ephemeral = ephemeral(self.seeds[0]);
        let builder = builder(&self.initiator, &self.preshared, &ephemeral);
        builder.remote_public_key(&remote.0).unwrap().build_initiator().unwrap()
    }

    fn snow_responder(&self) -> HandshakeState {
        builder(&self.responder, &self.preshared, &ephemeral(self.seeds[1])).build_responder().unwrap()
    }
}

/// ring has ChaCha20-Poly1305; curve and hash are snow's own choice.
fn builder<'a>(own: &'a [u8], preshared: &'a [u8; 32], ephemeral: &'a [u8; 32]) -> snow::Builder<'a> {
    let resolver = FallbackResolver::new(Box::new(RingResolver), Box::new(DefaultResolver));
    snow::Builder::with_resolver("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().unwrap(), Box::new(resolver))
        .prologue(b"WireGuard v1 zx2c4 Jason@zx2c4.com")
        .and_then(|builder| builder.psk(2, preshared))
        .and_then(|builder| builder.local_private_key(own))
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(ephemeral)
}

/// The ephemeral private key that comes out of a random source of that seed.
fn ephemeral(seed: u64) -> [u8; 32] {
    let mut key = [0; 32];
    StdRng::seed_from_u64(seed).fill_bytes(&mut key);
    key
}

fn snow_writes(snow: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 200];
    let len = snow.write_message(payload, &mut message).unwrap();
    message.truncate(len);
    message
}

fn snow_reads(snow: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, snow::Error> {
    let mut payload = vec![0; 200];
    let len = snow.read_message(message, &mut payload)?;
    payload.truncate(len);
    Ok(payload)
}

/// snow's part of a response, as a message.
fn response(fields: &[u8]) -> Response {
    let mut message = [0; RESPONSE_LEN];
    message[0] = TYPE_RESPONSE;
    message[RESPONSE].copy_from_slice(fields);
    Response::parse(&message).expect("a response")
}

/// Data goes both ways under the same keys, whatever the counter.
fn assert_same_keys(ours: &SessionKeys, snow: &StatelessTransportState) {
    for (counter, text) in [(0, &b"first"[..]), (1 << 40, b""), (u64::MAX - (1 << 13), &[7; 1420])] {
        let mut sealed = vec![0; text.len() + TAG_LEN];
        aead::seal(&mut [aead::Seal { key: &ours.send, counter, source: text, destination: &mut sealed }]);
        let mut opened = vec![0; sealed.len()];
        let len = snow.read_message(counter, &sealed, &mut opened).unwrap();
        assert_eq!(&opened[..len], text);

        let len = snow.write_message(counter, text, &mut sealed).unwrap();
        let mut opened = vec![0; text.len()];
        let key = &ours.receive;
        let source = &sealed[..len];
        let mut jobs = [aead::Open { key, counter, source, destination: &mut opened, authentic: false }];
        aead::open(&mut jobs);
        assert!(jobs[0].authentic);
        assert_eq!(opened, text);
    }
}

proptest! {
    /// Sections 5.4.2 and 5.4.3, our side the initiator.
    #[test]
    fn snow_answers_our_initiation(case in cases()) {
        let (message, initiated) = case.initiate();
        let by_snow = snow_writes(&mut case.snow_initiator(), &case.timestamp);
        prop_assert_eq!(&message.to_bytes()[INITIATION], &by_snow[..]);

        let mut snow = case.snow_responder();
        prop_assert_eq!(snow_reads(&mut snow, &message.to_bytes()[INITIATION]).unwrap(), case.timestamp);
        let public = PrivateKey(case.initiator).public();
        prop_assert_eq!(snow.get_remote_static(), Some(&public.0[..]));

        let response = response(&snow_writes(&mut snow, &[]));
        let (identity, peer) = case.initiator();
        let keys = initiated.finish(&identity, &peer, &response).expect("snow's response");
        assert_same_keys(&keys, &snow.into_stateless_transport_mode().unwrap());
    }

    /// Sections 5.4.2 and 5.4.3, our side the responder.
    #[test]
    fn we_answer_an_initiation_of_snow(case in cases()) {
        let mut snow = case.snow_initiator();
        let mut message = case.initiate().0.to_bytes();
        message[INITIATION].fill(0);
        message[INITIATION].copy_from_slice(&snow_writes(&mut snow, &case.timestamp));
        let message = Initiation::parse(&message).expect("an initiation");
        let (identity, peer) = case.responder();
        let opened = open_initiation(&identity, &message).expect("snow's initiation");
        prop_assert_eq!(opened.public, PrivateKey(case.initiator).public());
        let (received, timestamp) = opened.identify(&peer, &message).expect("snow's timestamp");
        prop_assert_eq!(timestamp, Tai64n(case.timestamp));
        prop_assert_eq!(received.sender, case.indices[0]);

        let ephemeral = StaticSecret::from(ephemeral(case.seeds[1]));
        let (response, keys) = received.respond(&peer, case.indices[1], &ephemeral).expect("full order");
        prop_assert_eq!((response.sender, response.receiver), (case.indices[1], case.indices[0]));
        let mut other = case.snow_responder();
        snow_reads(&mut other, &message.to_bytes()[INITIATION]).unwrap();
        prop_assert_eq!(&response.to_bytes()[RESPONSE], &snow_writes(&mut other, &[])[..]);

        prop_assert_eq!(snow_reads(&mut snow, &response.to_bytes()[RESPONSE]).unwrap(), Vec::<u8>::new());
        assert_same_keys(&keys, &snow.into_stateless_transport_mode().unwrap());
    }

    /// Where one of the two refuses a message, so does the other; a bent one is refused by both.
    #[test]
    fn both_refuse_what_is_bent(case in cases(), initiation_bit in 0_usize..108 * 8, response_bit in 0_usize..48 * 8) {
        let (message, initiated) = case.initiate();
        let mut bent = message.to_bytes();
        bent[INITIATION.start + initiation_bit / 8] ^= 1 << (initiation_bit % 8);
        let (identity, peer) = case.responder();
        let bent = Initiation::parse(&bent).expect("an initiation");
        let opened = open_initiation(&identity, &bent).and_then(|opened| opened.identify(&peer, &bent));
        prop_assert!(opened.is_none());
        prop_assert!(snow_reads(&mut case.snow_responder(), &bent.to_bytes()[INITIATION]).is_err());

        let mut snow = case.snow_responder();
        snow_reads(&mut snow, &message.to_bytes()[INITIATION]).unwrap();
        let mut fields = snow_writes(&mut snow, &[]);
        let good = response(&fields);
        fields[response_bit / 8] ^= 1 << (response_bit % 8);
        let bent = response(&fields);
        let (identity, peer) = case.initiator();
        prop_assert!(initiated.finish(&identity, &peer, &bent).is_none());
        let mut snow = case.snow_initiator();
        snow_writes(&mut snow, &case.timestamp);
        prop_assert!(snow_reads(&mut snow, &fields).is_err());
        prop_assert!(initiated.finish(&identity, &peer, &good).is_some(), "the initiation stays valid");
    }

    /// Section 5.4.3: the preshared key goes into the response, and both sides must have the same.
    #[test]
    fn another_preshared_key_is_refused(case in cases(), other: [u8; 32]) {
        prop_assume!(other != case.preshared);
        let (message, initiated) = case.initiate();
        let snow = Case { preshared: other, ..case.clone() };
        let mut responder = snow.snow_responder();
        snow_reads(&mut responder, &message.to_bytes()[INITIATION]).unwrap();
        let response = response(&snow_writes(&mut responder, &[]));
        let finish = |(identity, peer): (Identity, PeerKeys)| initiated.finish(&identity, &peer, &response);
        prop_assert!(finish(case.initiator()).is_none());
        prop_assert!(finish(snow.initiator()).is_some());
    }
}
