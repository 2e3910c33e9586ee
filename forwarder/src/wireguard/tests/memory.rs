//! Where keys stand in memory, as seen from outside: by another process, which has made the same handshake
//! with an independent implementation.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Write, stdin};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use snow::Builder;

use super::*;

/// Set in the process whose memory is looked at: the preshared key as hexadecimal digits.
const SUBJECT: &str = "FORWARDER_TEST_SUBJECT";
/// What begins the subject's lines, so that they are told from the test runner's.
const MARK: &str = "subject: ";

/// Section 6.3 and the kernel: a session's keys stand in the session, and nowhere when it is wiped; the
/// handshake leaves none on the stack. As a responder and as an initiator.
#[test]
fn keys_stand_in_their_session_only() {
    if let Ok(preshared) = std::env::var(SUBJECT) {
        return subject(&preshared);
    }
    let preshared: [u8; 32] = std::array::from_fn(|i| 0x90 ^ (i as u8 * 7));
    for initiator in [false, true] {
        let mut subject = Subject::start(&preshared);
        let private = private_key(B).0;
        let keys = if initiator { subject.answer(&preshared) } else { subject.initiate(&preshared) };
        for key in keys {
            let Copies { stack, elsewhere } = subject.copies(&key);
            assert_eq!(stack, 0, "of a session key on the stack; initiator: {initiator}");
            assert!(elsewhere > 0, "the key is looked for in vain; initiator: {initiator}");
        }
        assert_eq!(subject.copies(&private), Copies { stack: 0, elsewhere: 1 }, "of the private key");
        assert_eq!(subject.copies(&preshared), Copies { stack: 0, elsewhere: 1 }, "of the preshared key");
        subject.ask("wipe");
        for key in keys {
            assert_eq!(subject.copies(&key), Copies::default(), "of a wiped key; initiator: {initiator}");
        }
        subject.ask("drop");
        for key in [preshared, private] {
            assert_eq!(subject.copies(&key), Copies::default(), "of a dropped tunnel's key");
        }
    }
}

/// Does what the other process says, a line each, and says which messages it would send.
fn subject(preshared: &str) {
    let on_stack = 0_u8;
    println!("{MARK}{:016x}", std::ptr::from_ref(&on_stack).addr());
    let mut node = Some(crypto::on_wiped_stack(|| {
        let mut config = config(A);
        hex::decode_to_slice(preshared, &mut config.preshared_key).unwrap();
        Node::new(B, &config, 4)
    }));
    for line in stdin().lines().map_while(Result::ok) {
        let end = node.as_mut().unwrap();
        match &line[..] {
            "want" => end.want(START),
            "wipe" => {
                let (now, wall) = (START + seconds(540.0), end.wall(START));
                end.tunnel.handle_timeout(now, wall, &mut end.rng);
            }
            "drop" => node = None,
            message => {
                end.receive(START, Node::address(A), &hex::decode(message).unwrap()).unwrap();
            }
        }
        let sent = node.as_mut().and_then(|node| node.tunnel.poll_transmit());
        println!("{MARK}{}", sent.map(|sent| hex::encode(sent.payload)).unwrap_or_default());
    }
}

/// The process whose memory is looked at.
struct Subject {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// An address on its stack.
    stack: u64,
}

/// How often something stands in memory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Copies {
    stack: usize,
    elsewhere: usize,
}

impl Subject {
    fn start(preshared: &[u8; 32]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "wireguard::tests::memory::keys_stand_in_their_session_only",
            "--exact",
            "--nocapture",
        ]);
        command.env(SUBJECT, hex::encode(preshared)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut subject = Self { child, input, output, stack: 0 };
        subject.stack = u64::from_be_bytes(subject.answer_line().try_into().unwrap());
        subject
    }

    /// Says a line and returns the message that it sends then.
    fn ask(&mut self, line: &str) -> Vec<u8> {
        writeln!(self.input, "{line}").unwrap();
        self.answer_line()
    }

    fn answer_line(&mut self) -> Vec<u8> {
        let mut lines = self.output.by_ref().map(Result::unwrap);
        let answer = lines.find_map(|line| line.split_once(MARK).map(|(_, hex)| hex.to_owned()));
        hex::decode(answer.expect("the subject has ended")).unwrap()
    }

    /// A handshake with it as the responder; its keys.
    fn initiate(&mut self, preshared: &[u8; 32]) -> [[u8; 32]; 2] {
        let (own, peer) = (private_key(A).0, private_key(B).public());
        let builder = noise(&own, preshared).remote_public_key(&peer.0).unwrap();
        let mut state = builder.build_initiator().unwrap();
        let mut message = [0; message::INITIATION_LEN];
        message[0] = message::TYPE_INITIATION;
        state.write_message(&[0x40; 12], &mut message[8..116]).unwrap();
        mac::Mac1Key::new(&peer).fill(&mut message, None);
        let response = self.ask(&hex::encode(message));
        state.read_message(&response[12..60], &mut []).unwrap();
        state.dangerously_get_raw_split().into()
    }

    /// A handshake with it as the initiator; its keys.
    fn answer(&mut self, preshared: &[u8; 32]) -> [[u8; 32]; 2] {
        let mut state = noise(&private_key(A).0, preshared).build_responder().unwrap();
        let initiation = self.ask("want");
        state.read_message(&initiation[8..116], &mut [0; 12]).unwrap();
        let mut message = [0; message::RESPONSE_LEN];
        message[0] = message::TYPE_RESPONSE;
        message[8..12].copy_from_slice(&initiation[4..8]);
        state.write_message(&[], &mut message[12..60]).unwrap();
        mac::Mac1Key::new(&private_key(B).public()).fill(&mut message, None);
        self.ask(&hex::encode(message));
        state.dangerously_get_raw_split().into()
    }

    /// How often the bytes stand in its memory.
    fn copies(&self, secret: &[u8; 32]) -> Copies {
        let process = self.child.id();
        let memory = File::open(format!("/proc/{process}/mem")).unwrap();
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        let mut copies = Copies::default();
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (range, _) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
            let mut bytes = vec![0; (end - start) as usize];
            // What the kernel keeps for itself (vvar) cannot be read.
            let found = memory.read_exact_at(&mut bytes, start).map_or(0, |()| occurrences(&bytes, secret));
            let place =
                if (start..end).contains(&self.stack) { &mut copies.stack } else { &mut copies.elsewhere };
            *place += found;
        }
        copies
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn noise<'a>(own: &'a [u8; 32], preshared: &'a [u8; 32]) -> Builder<'a> {
    let builder = Builder::new("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().unwrap());
    let builder = builder.prologue(b"WireGuard v1 zx2c4 Jason@zx2c4.com").unwrap();
    builder.local_private_key(own).unwrap().psk(2, preshared).unwrap()
}

fn occurrences(bytes: &[u8], secret: &[u8; 32]) -> usize {
    bytes.windows(32).filter(|window| window == secret).count()
}
