//! A lint over the machine code of the AEAD engines: no instruction that shows secrets by its time or addresses.
//!
//! Whether a branch depends on a secret cannot be read from the code; `aead/tests/trace.rs` of `forwarder` steps
//! through it.

/// Functions of the engines have this in their names.
const ENGINES: &str = "forwarder::aead::batch::";
/// Each kernel's functions, and the registers that it works in.
const KERNELS: [(&str, &str); 2] =
    [("forwarder::aead::batch::avx512::", "%zmm"), ("forwarder::aead::batch::avx2::", "%ymm")];
/// Fewer instructions with such registers are no kernel: it has another name, or was not compiled as it should.
const FEWEST: usize = 100;

/// What is wrong with the code in the output of `objdump --disassemble --demangle --no-show-raw-insn`.
pub fn findings(objdump: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut vectors = [0; KERNELS.len()];
    let mut function = "";
    for line in objdump.lines() {
        if let Some(name) = header(line) {
            function = name;
            continue;
        }
        let Some((_, instruction)) = line.split_once(":\t").filter(|_| function.contains(ENGINES)) else {
            continue;
        };
        let mut in_kernel = false;
        for ((kernel, register), vectors) in KERNELS.iter().zip(&mut vectors) {
            if function.contains(kernel) {
                in_kernel = true;
                *vectors += usize::from(instruction.contains(register));
            }
        }
        let reason = anywhere(instruction).or_else(|| in_kernel.then(|| kernel(instruction)).flatten());
        if let Some(reason) = reason {
            findings.push(format!("{function}: {instruction}: {reason}"));
        }
    }
    for ((kernel, register), vectors) in KERNELS.iter().zip(vectors) {
        if vectors < FEWEST {
            findings.push(format!("{kernel}: only {vectors} instructions with {register} were found"));
        }
    }
    findings
}

/// The name in a function's first line: `00000000002b33d0 <forwarder::aead::batch::avx2::run>:`.
fn header(line: &str) -> Option<&str> {
    line.strip_suffix(">:")?.split_once(" <").map(|(_, name)| name)
}

/// What no code here may have.
fn anywhere(instruction: &str) -> Option<&'static str> {
    let mnemonic = mnemonic(instruction);
    if mnemonic.contains("gather") || mnemonic.contains("scatter") {
        return Some("addresses in a vector");
    }
    let compares = ["<bcmp", "<memcmp"].iter().any(|name| instruction.contains(name));
    compares.then_some("a comparison that ends at the first difference")
}

/// What code that works on secrets may not have. Outside of it there are divisions of lengths.
fn kernel(instruction: &str) -> Option<&'static str> {
    let mnemonic = mnemonic(instruction);
    if ["div", "idiv", "vdiv", "sqrt", "vsqrt"].iter().any(|slow| mnemonic.starts_with(slow)) {
        return Some("takes a time that depends on its operands");
    }
    if ["pdep", "pext"].contains(&mnemonic) {
        return Some("takes a time that depends on its operands (Zen 1 and 2)");
    }
    // Jumps to other functions have a fixed address relative to rip.
    (mnemonic == "jmp" && instruction.contains('*') && !instruction.contains("(%rip)"))
        .then_some("a table of jumps")
}

fn mnemonic(instruction: &str) -> &str {
    let prefixes = ["bnd", "data16", "lock", "notrack", "rep", "repnz", "repz"];
    instruction.split_whitespace().find(|word| !prefixes.contains(word)).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two kernels with nothing wrong, a function around them, and one of something else.
    fn code(in_kernel: &str, around: &str, elsewhere: &str) -> String {
        let function = |name: &str, body: &str| format!("00000000002b33d0 <{name}>:\n{body}\n");
        let line = |instruction: &str| format!("  2b33d0:\t{instruction}\n");
        [
            function(
                "forwarder::aead::batch::avx512::chacha::pass",
                &line("vpaddd %zmm1,%zmm0,%zmm0").repeat(FEWEST),
            ),
            function(
                "forwarder::aead::batch::avx2::chacha::pass",
                &(line("vpaddd %ymm1,%ymm0,%ymm0").repeat(FEWEST) + &line(in_kernel)),
            ),
            function("forwarder::aead::batch::open", &line(around)),
            function("forwarder::config::parse", &line(elsewhere)),
        ]
        .concat()
    }

    #[test]
    fn planted_instructions_are_found() {
        for planted in [
            "vpgatherdd %ymm2,(%rdi,%ymm1,4),%ymm0",
            "vpscatterdd %zmm0,(%rdi,%zmm1,4){%k1}",
            "call   *0x387b61(%rip)        # 6b7d50 <bcmp@GLIBC_2.2.5>",
            "call   68fe90 <memcmp@plt>",
            "div    %rcx",
            "vdivpd %ymm0,%ymm1,%ymm2",
            "pext   %rax,%rbx,%rcx",
            "notrack jmp *%rax",
            "jmp    *0x404799(,%rax,8)",
        ] {
            let findings = findings(&code(planted, "ret", "ret"));
            assert_eq!(findings.len(), 1, "{planted}: {findings:?}");
            assert!(findings[0].contains(planted) && findings[0].contains("avx2"), "{findings:?}");
        }
    }

    #[test]
    fn what_works_on_lengths_may_divide_and_others_may_do_as_they_like() {
        assert!(findings(&code("pextrq $1,%xmm0,%rax", "div    %rcx", "notrack jmp *%rax")).is_empty());
        assert!(findings(&code("jmp    *0x2f614e(%rip)", "ret", "vpgatherdd %ymm2,(%rdi),%ymm0")).is_empty());
        assert_eq!(findings(&code("ret", "call   68fe90 <bcmp@plt>", "ret")).len(), 1);
    }

    #[test]
    fn code_that_is_not_there_has_not_passed() {
        assert_eq!(findings("").len(), 2);
        assert_eq!(findings(&code("ret", "ret", "ret").replace("avx512::", "avx1024::")).len(), 1);
        assert_eq!(findings(&code("ret", "ret", "ret").replace("%ymm", "%xmm")).len(), 1);
    }
}
