//! The program's maps. Their names and shapes are the contract's.

use aya_ebpf::{
    btf_maps::{HashMap, LpmTrie, PerCpuArray, XskMap},
    macros::btf_map,
};
use forwarder_contract::{
    Interface, InterfaceKey, Listener, MAX_INTERFACES, MAX_LISTENERS, MAX_PREFIXES, MAX_QUEUES, Verdict,
};

#[btf_map]
pub static SOCKETS: XskMap<{ MAX_QUEUES as usize }> = XskMap::new();

#[btf_map]
pub static STEERING_V4: LpmTrie<[u8; 4], u32, { MAX_PREFIXES as usize }> = LpmTrie::new();

#[btf_map]
pub static STEERING_V6: LpmTrie<[u8; 16], u32, { MAX_PREFIXES as usize }> = LpmTrie::new();

#[btf_map]
pub static INTERFACES: HashMap<InterfaceKey, Interface, { MAX_INTERFACES as usize }> = HashMap::new();

#[btf_map]
pub static LISTENERS: HashMap<Listener, u8, { MAX_LISTENERS as usize }> = HashMap::new();

#[btf_map]
static VERDICTS: PerCpuArray<u64, { Verdict::ALL.len() }> = PerCpuArray::new();

/// Counts a frame on this CPU.
#[inline(always)]
pub fn count(verdict: Verdict) {
    if let Some(packets) = VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: this CPU's slot; programs on one CPU do not interrupt each other.
        unsafe { *packets += 1 };
    }
}
