//! Constant time: whatever keys, texts and tags are, the processor goes through the same instructions and touches
//! the same addresses.
//!
//! A child process works through a batch step by step, once for each of several secrets that stand in the same
//! places. Their traces must be equal. So no branch, index or gather depends on a secret, on the paths that these
//! lengths take; what an instruction by itself takes for its operands is not seen.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrayvec::ArrayVec;
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Register, UsedMemory};
use nix::libc::{_exit, SYS_close_range, syscall, user_regs_struct};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::*;

/// Address of an instruction, and a hash of those that it touches.
type Step = (u64, u64);

/// Bytes of the longest instruction, in whole words.
const LONGEST: usize = 16;

/// An instruction and the memory that it uses.
type Decoded = (Instruction, Vec<UsedMemory>);

#[derive(Default)]
struct Tracer {
    decoded: HashMap<u64, Decoded>,
}

impl Tracer {
    /// The steps of the work, in a child process.
    fn trace(&mut self, work: impl FnOnce()) -> Result<Vec<Step>, String> {
        // SAFETY: the child does nothing but the work, which takes no memory and no lock, and ends.
        match unsafe { fork() }.expect("a process") {
            ForkResult::Child => {
                // Other tests of this process wait for theirs to be closed.
                // SAFETY: the child uses none of them.
                unsafe { syscall(SYS_close_range, 3, u32::MAX, 0) };
                let traced = ptrace::traceme().and_then(|()| raise(Signal::SIGSTOP));
                let done = traced.is_ok() && catch_unwind(AssertUnwindSafe(work)).is_ok();
                // SAFETY: ends the process at once.
                unsafe { _exit(i32::from(!done)) }
            }
            ForkResult::Parent { child } => self.follow(child),
        }
    }

    fn follow(&mut self, child: Pid) -> Result<Vec<Step>, String> {
        let status = waitpid(child, None).unwrap();
        assert_eq!(status, WaitStatus::Stopped(child, Signal::SIGSTOP), "ptrace(2) is not permitted");
        ptrace::setoptions(child, ptrace::Options::PTRACE_O_EXITKILL).unwrap();
        let (mut steps, mut gather) = (Vec::new(), None);
        loop {
            ptrace::step(child, None).unwrap();
            match waitpid(child, None).unwrap() {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                WaitStatus::Exited(_, 0) => return gather.map_or(Ok(steps), Err),
                other => panic!("the work ended with {other:?}"),
            }
            let registers = ptrace::getregs(child).unwrap();
            let (instruction, memory) =
                self.decoded.entry(registers.rip).or_insert_with(|| decode(child, registers.rip));
            let mut hasher = DefaultHasher::new();
            for memory in memory {
                let address = memory.virtual_address(0, |register, _, _| value(&registers, register));
                address.hash(&mut hasher);
                if address.is_none() {
                    gather.get_or_insert_with(|| format!("addresses in a vector: {instruction}"));
                }
            }
            steps.push((registers.rip, hasher.finish()));
        }
    }

    /// Where the work shows something of the secrets, each of which `prepare` puts where the work finds it.
    fn leak<T>(
        &mut self,
        state: &mut T,
        prepare: impl Fn(&mut T, Secret),
        work: impl Fn(&mut T),
    ) -> Result<usize, String> {
        let mut first: Option<Vec<Step>> = None;
        for secret in 0..SECRETS {
            prepare(state, Secret(secret));
            let steps = self.trace(|| work(state))?;
            let first = first.get_or_insert_with(|| steps.clone());
            let differs = first.iter().zip(&steps).position(|(first, step)| first != step);
            if let Some(at) = differs {
                // Instructions differ after a branch, addresses at the access itself.
                let at = if first[at].0 == steps[at].0 { at } else { at - 1 };
                return Err(format!("secret {secret}, step {at}: {}", self.decoded[&steps[at].0].0));
            }
            assert_eq!(first.len(), steps.len());
        }
        Ok(first.map_or(0, |steps| steps.len()))
    }
}

fn decode(child: Pid, address: u64) -> Decoded {
    let mut code = [0; LONGEST];
    for (i, bytes) in code.as_chunks_mut().0.iter_mut().enumerate() {
        // The last instruction of a mapping may be shorter.
        if let Ok(word) = ptrace::read(child, (address as usize + 8 * i) as ptrace::AddressType) {
            *bytes = word.to_ne_bytes();
        }
    }
    let instruction = Decoder::with_ip(64, &code, address, DecoderOptions::NONE).decode();
    assert!(!instruction.is_invalid(), "unknown instruction {code:02x?}");
    (instruction, InstructionInfoFactory::new().info(&instruction).used_memory().to_vec())
}

/// What a register adds to an address; nothing is known of vectors.
fn value(registers: &user_regs_struct, register: Register) -> Option<u64> {
    let value = match register.full_register() {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::FS => registers.fs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    };
    Some(if register.is_gpr32() { value & u64::from(u32::MAX) } else { value })
}

/// Only zeros, only ones, or random.
#[derive(Clone, Copy)]
struct Secret(u64);
const SECRETS: u64 = 3;

impl Secret {
    fn fill(self, salt: usize, bytes: &mut [u8]) {
        match self.0 {
            0 => bytes.fill(0),
            1 => bytes.fill(0xff),
            seed => SmallRng::seed_from_u64(seed << 32 | salt as u64).fill_bytes(bytes),
        }
    }
}

/// Lengths for whole sets of lanes, for two groups of them, and for all kinds of ends.
const LENGTHS: [usize; 12] = [0, 5, 16, 48, 64, 79, 100, 130, 200, 300, 576, 1100];
/// Those that are authentic where every third is not.
const MOST: usize = LENGTHS.len() / 3 * 2;

struct Batch {
    keys: [Key; 2],
    texts: [Vec<u8>; LENGTHS.len()],
    messages: [Vec<u8>; LENGTHS.len()],
}

impl Batch {
    fn new() -> Self {
        Self {
            keys: [0, 1].map(|key| Key::new(&[key; 32])),
            texts: LENGTHS.map(|len| vec![0; len]),
            messages: LENGTHS.map(|len| vec![0; len + TAG_LEN]),
        }
    }

    fn fill(&mut self, secret: Secret) {
        for (i, key) in self.keys.iter_mut().enumerate() {
            let mut bytes = [0; 32];
            secret.fill(1000 + i, &mut bytes);
            key.replace(&bytes);
        }
        for (i, text) in self.texts.iter_mut().enumerate() {
            secret.fill(i, text);
        }
    }

    /// Messages of which always the same ones fail, by a byte of the tag that is secret.
    fn fill_messages(&mut self, secret: Secret) {
        self.fill(secret);
        self.seal(Engine::Ring);
        for (i, message) in self.messages.iter_mut().enumerate().filter(|(i, _)| i % 3 == 1) {
            let mut bytes = [0; 2];
            secret.fill(2000 + i, &mut bytes);
            let len = message.len();
            message[len - 1 - usize::from(bytes[0]) % TAG_LEN] ^= bytes[1] | 1;
        }
    }

    fn seal(&mut self, engine: Engine) {
        let jobs = self.texts.iter().zip(&mut self.messages).enumerate();
        let mut jobs: ArrayVec<_, { LENGTHS.len() }> = jobs
            .map(|(i, (source, destination))| Seal {
                key: &self.keys[i % 2],
                counter: 7,
                source,
                destination,
            })
            .collect();
        engine.seal_alone(&mut jobs);
    }

    /// Messages of which one fails: which one is secret.
    fn forge_one(&mut self, secret: Secret) {
        self.fill(Secret(0));
        self.seal(Engine::Ring);
        let forged = [0, LENGTHS.len() - 1, LENGTHS.len() / 2][secret.0 as usize];
        self.messages[forged][LENGTHS[forged]] ^= 1;
    }

    /// Opens all; so many are `authentic`.
    fn open(&mut self, engine: Engine, authentic: usize) {
        let jobs = self.messages.iter().zip(&mut self.texts).enumerate();
        let mut jobs: ArrayVec<_, { LENGTHS.len() }> = jobs
            .map(|(i, (source, destination))| {
                let key = &self.keys[i % 2];
                Open { key, counter: 7, source, destination, authentic: false }
            })
            .collect();
        engine.open_alone(&mut jobs);
        // Counted without a branch, which would be traced, too.
        let count: usize = jobs.iter().map(|job| usize::from(job.authentic)).sum();
        assert_eq!(count, authentic, "authentic messages");
    }
}

/// The engines of our own; libraries answer for themselves.
#[test]
fn secrets_leave_no_trace() {
    let mut tracer = Tracer::default();
    for engine in Engine::runnable().filter(|engine| !matches!(engine, Engine::Ring | Engine::Portable)) {
        let mut batch = Batch::new();
        // What is found out once, as the processor's features, is found out before.
        batch.fill_messages(Secret(0));
        batch.open(engine, MOST);
        batch.seal(engine);
        let sealed = tracer.leak(&mut batch, Batch::fill, |batch| batch.seal(engine));
        let opened = tracer.leak(&mut batch, Batch::fill_messages, |batch| batch.open(engine, MOST));
        let forged = tracer.leak(&mut batch, Batch::forge_one, |batch| batch.open(engine, LENGTHS.len() - 1));
        for steps in [sealed, opened, forged] {
            let steps = steps.unwrap_or_else(|leak| panic!("{engine}: {leak}"));
            assert!(steps > 1000, "{engine}: {steps} steps are no batch");
        }
    }
}

/// Planted leaks, of each kind.
#[test]
fn leaks_leave_traces() {
    let mut tracer = Tracer::default();
    let mut leaks = |work: fn(&[u8; 32])| {
        tracer.leak(&mut [0; 32], |bytes, secret| secret.fill(0, bytes), |bytes| work(bytes)).is_err()
    };
    assert!(!leaks(|secret| _ = black_box(secret.iter().fold(0, |a, b| a ^ b))));
    assert!(leaks(|secret| {
        if black_box(secret)[0] & 1 == 1 {
            std::hint::spin_loop();
        }
    }));
    assert!(leaks(|secret| _ = black_box(black_box(secret).iter().position(|byte| *byte == 0xff))));
    assert!(leaks(|secret| _ = black_box(black_box(&[1_u8; 256])[usize::from(secret[31])])));
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature.
        assert!(leaks(|secret| unsafe { gather(secret) }));
    }
}

/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn gather(secret: &[u8; 32]) {
    use std::arch::x86_64::{_mm256_i32gather_epi32, _mm256_set1_epi32};
    let index = _mm256_set1_epi32(i32::from(secret[0]));
    // SAFETY: there is a word at any byte's value.
    black_box(unsafe { _mm256_i32gather_epi32::<4>(black_box(&[1; 256]).as_ptr(), index) });
}
