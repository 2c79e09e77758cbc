//! Rewriting system-call sites into jumps to the trampoline.
//!
//! Two forms, each five bytes in one aligned word, so that one store makes the patch while other threads run:
//! - *A*: `mov $nr,%eax; syscall`. The jump takes the `mov`'s place; the `syscall` stays, for whoever jumps to it.
//! - *B*: `syscall` and what follows. The jump covers the `syscall` and at least three bytes more, which move to the slot.
//!   Every byte of the displacement that lies on an old instruction boundary is an opcode that does not exist: a thread that goes
//!   there gets SIGILL, and the kernel moves it (`Patch::moved`). The slot's address is chosen for that.
//!
//! A slot never touches the guest's stack, flags or vector registers. It uses rcx and r11, which `syscall` clobbers too: rcx =
//! where to go on, r11 = the trampoline. The trampoline finds the context block by `%gs`: **a guest that uses `%gs` itself
//! (`arch_prctl(ARCH_SET_GS)`, or a `gs_base` other than 0 seen in its registers) must not be patched**; the kernel turns patching off for that
//! address space, removes its patches, and reports `FSGSBASE` as absent (bit 1 of `AT_HWCAP2`) so that few guests try.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};

use super::blob;
use super::layout::{IDENTITY, PAGE};
use crate::{Patch, PatchRequest};

/// Slots are made of units of this many bytes.
const UNIT: u64 = 16;
/// Length of a near jump.
const JUMP: u64 = 5;

/// Calls that want the full frame, or do not come back: `rt_sigreturn`, `clone`, `fork`, `vfork`, `execve`, `exit`, `arch_prctl`,
/// `exit_group`, `execveat`, `clone3`.
const NEVER: [u64; 10] = [15, 56, 57, 58, 59, 60, 158, 231, 322, 435];

/// Calls the slot may answer from the block, and the index of the answer there: getpid gettid getppid getuid geteuid getgid
/// getegid.
const ANSWERED: [(u64, u64); 7] = [(39, 1), (186, 2), (110, 3), (102, 4), (107, 5), (104, 6), (108, 7)];

/// Opcodes that do not exist in 64-bit mode, on any processor: `push`/`pop` of segments, `daa` and its like, `pusha`, `popa`, the
/// second group 1, far `call` and `jmp`, `into`, `aam`.
const INVALID: [u8; 18] =
    [0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xea];

/// See [`Platform::plan_patch`](crate::Platform::plan_patch).
pub fn plan(request: &PatchRequest<'_>) -> Option<Patch> {
    if NEVER.contains(&request.number) {
        return None;
    }
    let text = Text { bytes: request.text, start: request.text_start };
    let call = request.return_ip.checked_sub(2)?;
    if text.get(call, 2)? != [0x0f, 0x05] {
        return None;
    }
    form_a(request, &text, call).or_else(|| form_b(request, &text, call))
}

struct Text<'a> {
    bytes: &'a [u8],
    start: u64,
}

impl Text<'_> {
    fn get(&self, at: u64, len: u64) -> Option<&[u8]> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(len as usize)?)
    }
}

/// Whether a jump written at `site` lies in one aligned word.
fn in_one_word(site: u64) -> bool {
    site % 8 <= 8 - JUMP
}

/// Where the instruction that loads the number begins, if it is right before the call.
fn load_site(text: &Text<'_>, call: u64, number: u64) -> Option<u64> {
    let number = u32::try_from(number).ok().filter(|number| *number <= i32::MAX as u32)?;
    let with = |opcode: &[u8]| [opcode, &number.to_le_bytes()].concat();
    // mov $number,%eax; with a prefix it would be another instruction.
    if text.get(call.checked_sub(5)?, 5) == Some(&with(&[0xb8])) {
        let before = text.get(call - 6, 1).and_then(|bytes| bytes.first().copied());
        let prefix = |byte: u8| matches!(byte, 0x40..=0x4f | 0x66 | 0x67);
        return (!before.is_some_and(prefix)).then_some(call - 5);
    }
    // mov $number,%rax
    (text.get(call.checked_sub(7)?, 7) == Some(&with(&[0x48, 0xc7, 0xc0]))).then_some(call - 7)
}

fn form_a(request: &PatchRequest<'_>, text: &Text<'_>, call: u64) -> Option<Patch> {
    let site = load_site(text, call, request.number).filter(|site| in_one_word(*site))?;
    let number = request.number as u32;
    let code = |slot_at: u64| {
        let mut slot = Slot { at: slot_at, bytes: Vec::with_capacity(64) };
        if let Some((_, index)) = ANSWERED.iter().find(|(answered, _)| *answered == request.number) {
            // mov %gs:enabled,%ecx; jrcxz over the rest: neither changes flags.
            slot.push(&[0x65, 0x8b, 0x0c, 0x25]).push(&(IDENTITY as u32).to_le_bytes());
            slot.push(&[0xe3, 13]);
            slot.push(&[0x65, 0x8b, 0x04, 0x25]).push(&((IDENTITY + index * 4) as u32).to_le_bytes());
            slot.jump_to(request.return_ip)?;
        }
        slot.push(&[0xb8]).push(&number.to_le_bytes());
        slot.go_on_at(request.return_ip)?.enter();
        Some(slot.bytes)
    };
    let (slot_at, slot) = place(request, site, code, |_| true)?;
    let site_bytes = jump(site, slot_at)?.to_vec();
    Some(Patch { slot_at, slot, site_at: site, site: site_bytes, moved: Vec::new() })
}

fn form_b(request: &PatchRequest<'_>, text: &Text<'_>, call: u64) -> Option<Patch> {
    if !in_one_word(call) {
        return None;
    }
    // What the jump covers, and what must move.
    let mut covered: Vec<Instruction> = Vec::new();
    let mut end = call + 2;
    let mut ended = false;
    while end < call + JUMP {
        let rest = text.get(end, (request.text_start + request.text.len() as u64).checked_sub(end)?.min(15))?;
        let mut decoder = Decoder::with_ip(64, rest, end, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        if ended
            && !matches!(
                instruction.code(),
                Code::Nopd | Code::Nopw | Code::Nopq | Code::Nop_rm16 | Code::Nop_rm32 | Code::Nop_rm64 | Code::Int3
            )
        {
            // After a return only padding may be covered: anything else belongs to someone else.
            return None;
        }
        end = instruction.next_ip();
        if !ended {
            covered.push(instruction);
        }
        ended |= matches!(instruction.flow_control(), FlowControl::Return | FlowControl::UnconditionalBranch);
    }
    let mut moved = Vec::new();
    let code = |slot_at: u64| {
        let mut slot = Slot { at: slot_at, bytes: Vec::with_capacity(64) };
        // The instructions that moved come after the jump to the trampoline.
        let landing = slot_at + GO_ON_LEN + ENTER_LEN;
        slot.go_on_at(landing)?.enter();
        for instruction in &covered {
            slot.relocate(instruction, text)?;
        }
        if !ended {
            slot.jump_to(end)?;
        }
        Some(slot.bytes)
    };
    let boundaries: Vec<usize> = covered.iter().map(|i| (i.ip() - call) as usize).filter(|at| *at < JUMP as usize).collect();
    let fits = |slot_at: u64| {
        jump(call, slot_at)
            .is_some_and(|bytes| boundaries.iter().all(|at| bytes.get(*at).is_some_and(|byte| INVALID.contains(byte))))
    };
    let (slot_at, slot) = place(request, call, code, fits)?;
    let mut at = slot_at + GO_ON_LEN + ENTER_LEN;
    for instruction in &covered {
        moved.push((instruction.ip(), at));
        at += relocated_len(instruction);
    }
    Some(Patch { slot_at, slot, site_at: call, site: jump(call, slot_at)?.to_vec(), moved })
}

/// Finds the first free place for a slot.
fn place(
    request: &PatchRequest<'_>,
    site: u64,
    code: impl Fn(u64) -> Option<Vec<u8>>,
    fits: impl Fn(u64) -> bool,
) -> Option<(u64, Vec<u8>)> {
    let units = (request.slots.end.checked_sub(request.slots.start)?) / UNIT;
    let taken = |unit: u64| request.taken.get((unit / 64) as usize).is_none_or(|word| word & (1 << (unit % 64)) != 0);
    let mut unit = 0;
    while unit < units {
        let slot_at = request.slots.start + unit * UNIT;
        if !taken(unit)
            && jump(site, slot_at).is_some()
            && fits(slot_at)
            && let Some(slot) = code(slot_at)
        {
            let needed = (slot.len() as u64).div_ceil(UNIT);
            // Not across a page: a slot must be mapped as a whole.
            let one_page = slot_at / PAGE == (slot_at + slot.len() as u64 - 1) / PAGE;
            if one_page && unit + needed <= units && (unit..unit + needed).all(|unit| !taken(unit)) {
                return Some((slot_at, slot));
            }
        }
        unit += 1;
    }
    None
}

/// The displacement of an instruction that ends at `from`.
fn displacement(from: u64, to: u64) -> Option<i32> {
    i32::try_from(to.wrapping_sub(from) as i64).ok()
}

fn jump(site: u64, to: u64) -> Option<[u8; JUMP as usize]> {
    let [a, b, c, d] = displacement(site + JUMP, to)?.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

const GO_ON_LEN: u64 = 7;
const ENTER_LEN: u64 = 13;
const _: () = assert!(GO_ON_LEN + ENTER_LEN == crate::SLOT_CALL_LEN);

struct Slot {
    at: u64,
    bytes: Vec<u8>,
}

impl Slot {
    fn here(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    fn push(&mut self, bytes: &[u8]) -> &mut Slot {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn jump_to(&mut self, to: u64) -> Option<&mut Slot> {
        let bytes = jump(self.here(), to)?;
        Some(self.push(&bytes))
    }

    /// lea to(%rip),%rcx
    fn go_on_at(&mut self, to: u64) -> Option<&mut Slot> {
        let displacement = displacement(self.here() + GO_ON_LEN, to)?;
        Some(self.push(&[0x48, 0x8d, 0x0d]).push(&displacement.to_le_bytes()))
    }

    /// movabs $trampoline,%r11; jmp *%r11
    fn enter(&mut self) -> &mut Slot {
        self.push(&[0x49, 0xbb]).push(&blob::trampoline().to_le_bytes()).push(&[0x41, 0xff, 0xe3])
    }

    /// Appends an instruction so that it does here what it did there.
    fn relocate(&mut self, instruction: &Instruction, text: &Text<'_>) -> Option<()> {
        let bytes = text.get(instruction.ip(), instruction.len() as u64)?;
        match instruction.flow_control() {
            FlowControl::Next if instruction.is_ip_rel_memory_operand() => {
                let mut decoder = Decoder::with_ip(64, bytes, instruction.ip(), DecoderOptions::NONE);
                let decoded = decoder.decode();
                let offsets = decoder.get_constant_offsets(&decoded);
                let next = self.here() + bytes.len() as u64;
                let new = displacement(next, instruction.ip_rel_memory_address())?.to_le_bytes();
                let mut copy = bytes.to_vec();
                copy.get_mut(offsets.displacement_offset()..offsets.displacement_offset() + 4)?.copy_from_slice(&new);
                self.push(&copy);
            }
            FlowControl::Next | FlowControl::Return => {
                self.push(bytes);
            }
            FlowControl::UnconditionalBranch => {
                self.jump_to(instruction.near_branch_target())?;
            }
            FlowControl::ConditionalBranch if instruction.is_jcc_short_or_near() => {
                let condition = *bytes.first().filter(|byte| **byte != 0x0f).or(bytes.get(1))? & 0xf;
                let displacement = displacement(self.here() + 6, instruction.near_branch_target())?;
                self.push(&[0x0f, 0x80 | condition]).push(&displacement.to_le_bytes());
            }
            // Calls would leave a return address in the slot on the guest's stack; the rest is not worth it.
            _ => return None,
        }
        Some(())
    }
}

/// Length of a relocated instruction.
fn relocated_len(instruction: &Instruction) -> u64 {
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch => JUMP,
        FlowControl::ConditionalBranch => 6,
        _ => instruction.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u64 = 0x10_0000;

    fn request<'a>(text: &'a [u8], return_ip: u64, number: u64, taken: &'a [u64]) -> PatchRequest<'a> {
        PatchRequest { return_ip, number, text, text_start: TEXT, slots: 0x20_0000..0x21_0000, taken }
    }

    fn free() -> Vec<u64> {
        vec![0; 64]
    }

    #[test]
    fn the_number_load_is_replaced() {
        let text = [0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0xc3];
        let taken = free();
        let patch = plan(&request(&text, TEXT + 7, 110, &taken)).unwrap();
        assert_eq!((patch.site_at, patch.site.len(), patch.moved.len()), (TEXT, 5, 0));
        assert_eq!(&patch.slot[..4], [0x65, 0x8b, 0x0c, 0x25]);
        // A taken unit is left alone.
        let mut taken = free();
        taken[0] = 0b111;
        assert_eq!(plan(&request(&text, TEXT + 7, 110, &taken)).unwrap().slot_at, 0x20_0030);
        assert_eq!(plan(&request(&text, TEXT + 7, 110, &[u64::MAX; 64])), None);
        // Not the number in the text; a prefix that makes it another instruction; a call that is never patched.
        assert_eq!(plan(&request(&text, TEXT + 7, 111, &taken)), None);
        let other = [0x41, 0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0x90];
        assert_eq!(plan(&request(&other, TEXT + 8, 110, &taken)), None);
        let clone = [0xb8, 56, 0, 0, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(plan(&request(&clone, TEXT + 7, 56, &taken)), None);
    }

    #[test]
    fn what_follows_the_call_moves() {
        let text = [0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x73, 0x01, 0xc3, 0xc3];
        let taken = free();
        let patch = plan(&request(&text, TEXT + 2, 0, &taken)).unwrap();
        assert_eq!(patch.site_at, TEXT);
        assert!(INVALID.contains(&patch.site[2]), "{:x?}", patch.site);
        assert_eq!(patch.moved, [(TEXT + 2, patch.slot_at + 20)]);
        assert_eq!(&patch.slot[20..26], &text[2..8]);
        assert_eq!(jump(patch.slot_at + 26, TEXT + 8).unwrap(), patch.slot[26..31]);
    }

    #[test]
    fn short_branches_grow() {
        // syscall; test %eax,%eax (2); js +4 (2)
        let text = [0x0f, 0x05, 0x85, 0xc0, 0x78, 0x04, 0x90, 0x90, 0x90, 0x90, 0xc3];
        let taken = vec![0; 4096];
        let wide = PatchRequest { slots: 0x800_0000..0x840_0000, ..request(&text, TEXT + 2, 0, &taken) };
        let Some(patch) = plan(&wide) else { return };
        assert_eq!(patch.moved.len(), 2);
        assert!(patch.moved.iter().all(|(old, _)| INVALID.contains(&patch.site[(old - TEXT) as usize])));
        assert_eq!(patch.slot[22..24], [0x0f, 0x88]);
    }

    #[test]
    fn sites_across_words_are_left_alone() {
        for shift in 0..8u64 {
            let mut text = vec![0x90; shift as usize];
            text.extend([0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x73, 0x01]);
            let taken = free();
            let patch = plan(&request(&text, TEXT + shift + 2, 0, &taken));
            assert_eq!(patch.is_some(), shift <= 3, "{shift}");
        }
    }

    #[test]
    fn what_follows_a_return_is_covered_only_if_padding() {
        let taken = free();
        let padded = [0x0f, 0x05, 0xc3, 0x0f, 0x1f, 0x44, 0x00, 0x00];
        assert!(plan(&request(&padded, TEXT + 2, 0, &taken)).is_some());
        let function = [0x0f, 0x05, 0xc3, 0x55, 0x48, 0x89, 0xe5, 0x90];
        assert_eq!(plan(&request(&function, TEXT + 2, 0, &taken)), None);
    }

    /// Random text and ranges: no panic, and what comes out is well-formed.
    #[test]
    fn any_text_is_survived() {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        let taken = free();
        let mut planned = 0;
        for _ in 0..20_000 {
            let mut text: Vec<u8> = (0..32).map(|_| random() as u8).collect();
            let at = (random() % 30) as usize;
            text[at..at + 2].copy_from_slice(&[0x0f, 0x05]);
            if let Some(patch) = plan(&request(&text, TEXT + at as u64 + 2, random() % 400, &taken)) {
                planned += 1;
                assert!(in_one_word(patch.site_at) && patch.site.len() == 5);
                for (old, new) in &patch.moved {
                    assert!(INVALID.contains(&patch.site[(old - patch.site_at) as usize]) || *old >= patch.site_at + 5);
                    assert!((patch.slot_at..patch.slot_at + patch.slot.len() as u64).contains(new));
                }
            }
        }
        assert!(planned > 100);
        assert_eq!(plan(&PatchRequest { text: &[], ..request(&[], 1, 0, &taken) }), None);
    }
}
