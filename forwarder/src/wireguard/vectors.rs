//! Handshakes with wireguard-go 0.0.20250522 and with the kernel's WireGuard (Linux 6.12), captured on the wire: macs,
//! indices and timestamps included, which `snow` does not know.
//!
//! Our side was a program of its own, with fixed keys; the other one chose its ephemeral keys and indices.
//! Each handshake ends with a ping of the other side, which it sealed because it believed ours.

use std::convert::Infallible;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::{TryCryptoRng, TryRng};
use x25519_dalek::StaticSecret;

use super::cookie::Jar;
use super::mac::{Mac1Key, mac1_of};
use super::message::{CookieReply, DATA_HEADER_LEN, DataHeader, Initiation, Response};
use super::noise::{Identity, PeerKeys, initiate, open_initiation};
use super::shared::Shared;
use super::tai64n::Tai64n;
use super::{PeerConfig, PrivateKey, Refusal, SessionKeys, Tunnel};
use crate::aead::{self, Open};
use crate::clock::{Boottime, Wall};
use crate::id::{PeerId, TunnelId};

/// Our private key and the other side's.
const OURS: [u8; 32] = [0x11; 32];
const THEIRS: [u8; 32] = [0x22; 32];
/// Our ephemeral private key as an initiator, and as a responder.
const INITIATOR: [u8; 32] = [0x33; 32];
const RESPONDER: [u8; 32] = [0x44; 32];
/// Our session index as an initiator, and as a responder.
const INITIATOR_INDEX: u32 = 0x0102_0304;
const RESPONDER_INDEX: u32 = 0x0506_0708;
/// The timestamp in our initiations.
const TIMESTAMP: [u8; 12] = [0x40, 0, 0, 0, 0x65, 0x53, 0xf1, 0x0a, 0x12, 0, 0, 0];

/// The rest of a handshake, and the first packet that the other side sent with its keys. All in hexadecimal.
struct Vector {
    preshared: [u8; 32],
    response: &'static str,
    data: &'static str,
    plain: &'static str,
}

/// Our initiation, whoever is to answer it.
const INITIATION: &str = "01000000040302017b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8a1b1481e498317da9\
     59fba46669572516a5e6c021bfa620bb6c56ca0082e1feae14988c2c64d024c617734a263f76a008df04d0f94bad\
     8ee75ec8f3c26955497a4c0c7165df56abb7f2b8293e238d728f81edda3faa8bdb9ad5db4f97fcc6000000000000\
     00000000000000000000";

/// We initiated: twice to wireguard-go, twice to the kernel.
const ANSWERED: [Vector; 4] = [
    Vector {
        preshared: [0; 32],
        response: "0200000086a2ae0f0403020104610f78d948700f6465989973e5ea5dee89d080595b85e074c086c9218c413c4c7c\
         f32260d8e4c0ae224512099b7255a3db58c4b4722964b8ce9e022d25ba2f00000000000000000000000000000000",
        data: "040000000403020100000000000000005c7c357de405a120e2fe8d128e2db41279e089cb91f6d254462bcd7218dc\
         69092cd6db00ade6cb085066918a04cbf40cf9613af0d859ea8c4109af23ec67ddb1f74a34950f87a4a0a3e8e8c7\
         5b13c308",
        plain: "450000349e344000400188920a0000020a00000108000eee308e00015887096b00000000ea260300000000005a5a\
         5a5a5a5a5a5a000000000000000000000000",
    },
    Vector {
        preshared: [0x55; 32],
        response: "020000005c7053ba04030201cac201c20f566ed82adce27fd45f73fc32ba61cb1c5ea19e13180b8b9e69b3722680\
         de3fbfa9f6946d60757b9dab75c41c76067b321fa62f05b52c657c06477b00000000000000000000000000000000",
        data: "04000000040302010000000000000000ed11cc68a01fbad8398346eaad001675d225967d42f2254f924dfebc7d46\
         abb3cc25a9b5d8f5812555244994fe2e9b7641f58b6543522282e93f61baa35279d4dee2bca8e58e792f96abf784\
         dfe75329",
        plain: "45000034a17740004001854f0a0000020a00000108007c32315000015d87096b0000000071200900000000005a5a\
         5a5a5a5a5a5a000000000000000000000000",
    },
    Vector {
        preshared: [0; 32],
        response: "0200000021cde2fd04030201bb6918dfafebfda11066b8ec4a8b0eade3620372b35e23a9a856735f682ffa78f03e\
         b33a4284f1cee5a4c69bd70b7516f0b2890aa62800bbf612348ef3d34f7b00000000000000000000000000000000",
        data: "04000000040302010000000000000000242fa309a8559cb2ea009d142a30056e17540d13a58ad1f6b8f5006d6c2e\
         f5ae8d3813edf7e08b3188c38e5adeaab7449223d988cce8ae3bf40312a8fea36560b83ded2765bfe1feac7e8e27\
         51553706",
        plain: "4500003448d940004001dded0a0000020a00000108009e23003f0001c6cd0b6b000000001cfa0100000000005a5a\
         5a5a5a5a5a5a000000000000000000000000",
    },
    Vector {
        preshared: [0x55; 32],
        response: "020000003b531472040302016bd159221f1a242ec8b81d7a3cfe46940d0492681861cf754172b2a355941f211df3\
         d6abdb2f6e8835ab321efc52d9e625ab63ffbf7a65c04c6ac40fcd1a4efc00000000000000000000000000000000",
        data: "04000000040302010000000000000000c25f461e74b447341850d840601ae8453a86359302f88469f5f8c3e2168f\
         ae5261791770d09fb6f60b11b9c2d388dfdf45aff831e1e4178156d32cc17827f2bb9ffee05d0f6267b8d1f77f79\
         96320069",
        plain: "45000034856c40004001a15a0a0000020a00000108004c1300550001c7cd0b6b0000000064f40a00000000005a5a\
         5a5a5a5a5a5a000000000000000000000000",
    },
];

/// They initiated, in the same order: the timestamp, the initiation, and the rest.
const ASKED: [(&str, &str, Vector); 4] = [
    (
        "400000006b0987633b000000",
        "0100000080d4c953edff702e82dd7e1b6d588a84293219fd5bcd38d95d05e6cac39641ded75fde543412845e978b\
         f747bb1c9c9c9e651ad07d5a0a786656d2229ba46d1cccdfec6687df1ea6e26cfac8fb42f6880ca45ff2f9efee9d\
         6a0fb0ca7b5ffc4844dbbd1eefdb1c5b86968032419aeb893745b6625cd5fbd455c9e4ffbb42b266000000000000\
         00000000000000000000",
        Vector {
            preshared: [0; 32],
            response: "020000000807060580d4c953ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b95f5\
         424c21db025d36b84a31bad858949181db32b5c409d1b658dcc29ac8151100000000000000000000000000000000",
            data: "04000000080706050000000000000000a755a54720c6b538060c5dc4b1aab11f9b9315e4a9fe32a2158f531c05d1\
         771934c8d233019d4ef2adad9fe5f44bb71c9306bba5d4d5d81ee409772795e3242cf905cbe3e9f0e16fef4c4e47\
         8856112b",
            plain: "450000349f6740004001875f0a0000020a0000010800c98e30f100015987096b0000000022230f00000000005a5a\
         5a5a5a5a5a5a000000000000000000000000",
        },
    ),
    (
        "400000006b09876919000000",
        "010000005ccc9416046fe0e1e05759d1de3074d88a41262de521d40475bf5040f4a71707aac3d7001efc2d25c00d\
         fda8d2174ff4383eb9d0967d7b43509ddbdf2baf30cfe5c604368e12f4de602a469c63483e89a99976fab75a13c4\
         6aec8e955642e41cfdf0072181efa1b8f68e2c54ae47b92df86a6f14e7588c05c874d44a861d94f9000000000000\
         00000000000000000000",
        Vector {
            preshared: [0x55; 32],
            response: "02000000080706055ccc9416ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b9fcf\
         47869d8028418b08236ef4d4295c60a6aa7660ae8265a858ae1f60a4369c00000000000000000000000000000000",
            data: "040000000807060500000000000000008980358d6943e0c5a6e93912a5ec75602b41524492595f022d70f9257fd7\
         47b1c8e34e67dbef379c05d997978a0d55c3b8d8c8918a96985a5f819555f45f51422af331438da3dd13872973c2\
         0caf665e",
            plain: "45000034a3254000400183a10a0000020a00000108005d7e31a400015f87096b0000000090800600000000005a5a\
         5a5a5a5a5a5a000000000000000000000000",
        },
    ),
    (
        "400000006b0bcdd23a000000",
        "01000000a0a118f355f39046c391f9265c2d50c18f89b2d63a944b979ac2d69ebf1690bf8ce2cb39ef16807ea70d\
         b470f853f9b8c94ddf52ce36f168185f143edbafd382cf81e69ee5a69df49d39462d50d9431b658fd570e84049ce\
         a6f97f5061faaf255e614cee706778463445731698a0b5ec7ce26b8d775b1dacce3052a8a12a3b9f000000000000\
         00000000000000000000",
        Vector {
            preshared: [0; 32],
            response: "0200000008070605a0a118f3ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6bc9b8\
             f3296a14d320defd6fc2d391ad814602cac957a53271c7c70f7f8afb62d400000000000000000000000000000000",
            data: "04000000080706050000000000000000b126220bd76a120a7b88ba6deaf00c611da2ed5f3ca99d22aab3e846647b\
             0fbe68ef69f859cb831aee2e51971ff0436f1895b0725ba223fd93152d0193268ea3e00457f377bc9770dd02ea5d\
             79d7f738",
            plain: "450000349dd94000400188ed0a0000020a000001080085fc00680001c8cd0b6b0000000025f80e00000000005a5a\
             5a5a5a5a5a5a000000000000000000000000",
        },
    ),
    (
        "400000006b0bcdd40e000000",
        "0100000032fea3cabb74fc9432e2d6b482216d9577628e1006c4560b83d05454c2dd5a6f4c06ef0350f9a958564f\
         e0d8168a315c2d9e7deb8d5beb7c0918014d2a828d929ad2c967ff05c6c0725b0fa46626050b83741dfe6033be1f\
         3ccb7b17ccfee6d42f4b6ddddbb02eb3f572f4ed716584869b1c6606c033457125a838463129971f000000000000\
         00000000000000000000",
        Vector {
            preshared: [0x55; 32],
            response: "020000000807060532fea3caff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6bb349\
             db3d73cc133b5acfea2fd797f63097ddb3e128f73860cc06865ab73b40af00000000000000000000000000000000",
            data: "0400000008070605000000000000000039800954a3734ee4479440e326b99c826f40bfe0ec762a679914669a2557\
             7bbb50cb991d8968adf754b12d02366aca3e9ae415f463fb04177a9edd7dd640c30e7624386d42a2363d088ff30e\
             a2450710",
            plain: "45000034c874400040015e520a0000020a0000010800db2a007b0001cacd0b6b00000000d9b60300000000005a5a\
             5a5a5a5a5a5a000000000000000000000000",
        },
    ),
];

/// What wireguard-go under load replied to [`INITIATION`].
const COOKIE_REPLY: &str = "030000000403020133b9bd9eab4b2413194200fbdd3fe7d076cc95355f237843c9a4ddc5e7b196dd8670f95fa7cf\
     f93b59ddd0b94c36ca47d8f8054267ea8573";

impl Vector {
    /// What our side knows.
    fn keys(&self) -> (Identity, PeerKeys) {
        let identity = Identity::new(&PrivateKey(OURS));
        let peer = PeerKeys::new(&identity, PrivateKey(THEIRS).public(), &self.preshared);
        (identity, peer.expect("a key of full order"))
    }

    fn assert_opens_data(&self, keys: &SessionKeys, index: u32) {
        let message = bytes(self.data);
        assert_eq!(DataHeader::parse(&message), Some(DataHeader { receiver: index, counter: 0 }));
        let source = &message[DATA_HEADER_LEN..];
        let mut plain = vec![0; source.len() - aead::TAG_LEN];
        let key = &keys.receive;
        let mut jobs = [Open { key, counter: 0, source, destination: &mut plain, authentic: false }];
        aead::open(&mut jobs);
        assert!(jobs[0].authentic);
        assert_eq!(plain, bytes(self.plain));
        // The ping, padded to a multiple of 16 (section 5.4.6).
        assert_eq!((plain.len(), &plain[12..20]), (64, &[10, 0, 0, 2, 10, 0, 0, 1][..]));
    }
}

/// A random source that yields one key.
struct Fixed([u8; 32]);

impl TryRng for Fixed {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("a handshake draws keys only")
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("a handshake draws keys only")
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.copy_from_slice(&self.0);
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("hexadecimal")
}

/// The message with its mac1.
fn with_mac1<const N: usize>(mut message: [u8; N]) -> Vec<u8> {
    Mac1Key::new(&PrivateKey(THEIRS).public()).fill(&mut message, None);
    message.to_vec()
}

/// Sections 5.4.2 to 5.4.4, 5.4.6: our initiation is the one that both answered, to the last byte.
#[test]
fn wireguard_go_and_the_kernel_answer_our_initiation() {
    for vector in ANSWERED {
        let (identity, peer) = vector.keys();
        let ephemeral = Box::new(StaticSecret::random_from_rng(&mut Fixed(INITIATOR)));
        let (message, initiated) =
            initiate(&identity, &peer, INITIATOR_INDEX, Tai64n(TIMESTAMP), ephemeral).expect("full order");
        assert_eq!(with_mac1(message.to_bytes()), bytes(INITIATION));

        let response = bytes(vector.response);
        assert!(Mac1Key::new(&identity.public).verify(&response));
        let response = Response::parse(&response).expect("a response");
        assert_eq!(response.receiver, INITIATOR_INDEX);
        let keys = initiated.finish(&identity, &peer, &response).expect("their response");
        vector.assert_opens_data(&keys, INITIATOR_INDEX);
    }
}

/// Sections 5.4.2 to 5.4.4, 5.4.6: our response is the one that both took, to the last byte.
#[test]
fn we_answer_initiations_of_wireguard_go_and_the_kernel() {
    for (timestamp, initiation, vector) in ASKED {
        let (identity, peer) = vector.keys();
        let message = bytes(initiation);
        assert!(Mac1Key::new(&identity.public).verify(&message));
        let message = Initiation::parse(&message).expect("an initiation");
        let opened = open_initiation(&identity, &message).expect("their initiation");
        assert_eq!(opened.public, PrivateKey(THEIRS).public());
        let (received, stamp) = opened.identify(&peer, &message).expect("their timestamp");
        assert_eq!(stamp.0[..], bytes(timestamp));
        assert_eq!(received.sender, message.sender);

        let ephemeral = StaticSecret::random_from_rng(&mut Fixed(RESPONDER));
        let (response, keys) = received.respond(&peer, RESPONDER_INDEX, &ephemeral).expect("full order");
        assert_eq!(with_mac1(response.to_bytes()), bytes(vector.response));
        vector.assert_opens_data(&keys, RESPONDER_INDEX);
    }
}

/// The same initiations through a tunnel: answered once, refused when they come again.
#[test]
fn a_tunnel_takes_their_initiations_once() {
    for (_, initiation, vector) in ASKED {
        let (now, wall) = (Boottime(Duration::from_secs(5)), Wall(Duration::from_secs(5)));
        let rng = &mut StdRng::seed_from_u64(1);
        let mut tunnel =
            Tunnel::new(TunnelId(0), &PrivateKey(OURS), std::sync::Arc::<Shared>::default(), now, rng);
        let public_key = PrivateKey(THEIRS).public();
        let preshared_key = vector.preshared;
        let id = PeerId(0);
        let peer = PeerConfig { id, public_key, preshared_key, endpoint: None, persistent_keepalive: None };
        assert!(tunnel.add_peer(&peer, now));
        let source = "192.0.2.2:51821".parse().expect("an address");
        let message = bytes(initiation);
        let mut bent = message.clone();
        bent[50] ^= 1;
        assert_eq!(tunnel.receive(now, wall, rng, source, &bent, false), Err(Refusal::Mac1));
        assert_eq!(tunnel.receive(now, wall, rng, source, &message, true), Err(Refusal::CookieRequired));
        assert_eq!(tunnel.poll_transmit().map(|sent| sent.payload.len()), Some(64));
        assert_eq!(tunnel.receive(now, wall, rng, source, &message, false), Ok(()));
        let response = tunnel.poll_transmit().expect("an answer");
        assert_eq!(response.to, source);
        let response = Response::parse(&response.payload).expect("a response");
        let initiation = Initiation::parse(&message).expect("an initiation");
        assert_eq!(response.receiver, initiation.sender);
        let next = tunnel.slots(id).next.expect("a session");
        assert_eq!((next.local_index, next.remote_index), (response.sender, initiation.sender));
        assert_eq!(tunnel.receive(now, wall, rng, source, &message, false), Err(Refusal::Replayed));
    }
}

/// Section 5.4.7: a cookie reply of wireguard-go opens with the mac1 that it answers, and no other.
#[test]
fn a_cookie_reply_of_wireguard_go_is_taken() {
    let reply = CookieReply::parse(&bytes(COOKIE_REPLY)).expect("a cookie reply");
    assert_eq!(reply.receiver, INITIATOR_INDEX);
    let (now, public) = (Boottime::default(), PrivateKey(THEIRS).public());
    let mut jar = Jar::new(&public);
    jar.sent([1; 16]);
    assert!(!jar.take(now, &reply));
    jar.sent(mac1_of(&bytes(INITIATION)));
    assert!(jar.take(now, &reply));
    assert!(jar.cookie(now).is_some());
}
