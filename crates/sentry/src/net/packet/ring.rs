//! [`Ring`]: frames in memory that the program maps (`PACKET_RX_RING` of `TPACKET_V2`; Documentation/networking/packet_mmap.rst).
//!
//! The program can write to all of it. What is read of it is each slot's status, once, and it decides only whether the slot is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hostcall::MemoryFault;
use parking_lot::Mutex;

use super::{Link, PacketSocket};
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::mm::{Access, Mappable, MemoryFile, Pages, Piece};

/// `TPACKET_V2`, the version that there is.
pub(super) const VERSION: i32 = 1;
/// Bytes of `struct tpacket2_hdr`, behind which the address stands.
pub(super) const HEADER: u32 = 32;
/// Where the network's header stands in a slot, with no more room asked for: behind both and 16 bytes, aligned to 16.
const NETWORK: u32 = 80;
/// Most bytes that may be asked for before it (`PACKET_RESERVE`).
pub(super) const RESERVE: u32 = 4096;
const ALIGNMENT: u32 = 16;
/// Largest ring in bytes.
const LARGEST: u64 = 32 << 20;

/// `TP_STATUS_*`: the slot is the kernel's; the program's; the frame was cut; its checksum is left to the link.
const KERNEL: u32 = 0;
const USER: u32 = 1;
const CUT: u32 = 2;
const UNFINISHED: u32 = 8;

pub(super) struct Ring {
    pages: Pages,
    block: u64,
    slots_in_block: u64,
    slot: u32,
    slots: u64,
    /// Where the network's header stands in a slot.
    network: u32,
    /// The next to be filled.
    head: Mutex<u64>,
    identity: u64,
}

/// `struct tpacket_req`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub block: u32,
    pub blocks: u32,
    pub slot: u32,
    pub slots: u32,
    /// Room before the headers.
    pub reserve: u32,
}

impl Ring {
    /// # Errors
    /// `EINVAL`, `ENOMEM`.
    pub fn new(memory: &Arc<MemoryFile>, request: Request) -> Result<Arc<Ring>, Errno> {
        let Request { block, blocks, slot, slots, reserve } = request;
        let network = NETWORK + reserve.min(RESERVE);
        let paged = block > 0 && u64::from(block).is_multiple_of(PAGE_SIZE);
        if !paged || blocks == 0 || slot <= network || !slot.is_multiple_of(ALIGNMENT) {
            return Err(Errno::EINVAL);
        }
        let slots_in_block = block / slot;
        if slots_in_block == 0 || slots_in_block.checked_mul(blocks) != Some(slots) {
            return Err(Errno::EINVAL);
        }
        let bytes = u64::from(block) * u64::from(blocks);
        if bytes > LARGEST {
            return Err(Errno::ENOMEM);
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok(Arc::new(Ring {
            pages: memory.alloc(bytes)?,
            block: block.into(),
            slots_in_block: slots_in_block.into(),
            slot,
            slots: slots.into(),
            network,
            head: Mutex::new(0),
            // Apart from those of files.
            identity: 3 << 62 | NEXT.fetch_add(1, Ordering::Relaxed),
        }))
    }

    /// Where a slot starts in the memory file.
    fn place(&self, slot: u64) -> u64 {
        self.pages.start() + slot / self.slots_in_block * self.block + slot % self.slots_in_block * u64::from(self.slot)
    }

    /// Puts a frame into the next slot. `network` is where the network's header stands in the bytes. False: the program has not taken what was
    /// there.
    pub fn put(&self, bytes: &[u8], length: u32, network: usize, from: Link, unfinished: bool, at_ns: u64) -> bool {
        let mut head = self.head.lock();
        let place = self.place(*head);
        let window = self.pages.memory().window();
        if window.load_u32(place) != Ok(KERNEL) {
            return false;
        }
        let start = self.network - network as u32;
        let kept = bytes.get(..bytes.len().min((self.slot - start) as usize)).unwrap_or_default();
        let mut header = Vec::with_capacity(HEADER as usize);
        header.extend_from_slice(&(kept.len() as u32).to_le_bytes());
        header.extend_from_slice(&(start as u16).to_le_bytes());
        header.extend_from_slice(&(self.network as u16).to_le_bytes());
        header.extend_from_slice(&((at_ns / 1_000_000_000) as u32).to_le_bytes());
        header.extend_from_slice(&((at_ns % 1_000_000_000) as u32).to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(&PacketSocket::address(&from, 6));
        let mut status = USER;
        if kept.len() < length as usize {
            status |= CUT;
        }
        if unfinished {
            status |= UNFINISHED;
        }
        // The status last: with it the slot is the program's.
        let write = || -> Result<(), MemoryFault> {
            window.write(place + u64::from(start), kept)?;
            window.write(place + 8, &header)?;
            window.store_u64(place, u64::from(length) << 32 | u64::from(status))
        };
        if write().is_err() {
            return false;
        }
        *head = (*head + 1) % self.slots;
        true
    }

    /// Whether the program has not taken the frame that came last.
    pub fn is_readable(&self) -> bool {
        let last = (*self.head.lock() + self.slots - 1) % self.slots;
        self.pages.memory().window().load_u32(self.place(last)).is_ok_and(|status| status != KERNEL)
    }
}

impl Mappable for Ring {
    fn pieces(&self, offset: u64, len: u64, _access: Access) -> Result<Vec<Piece>, Errno> {
        let part = self.pages.share(offset, len);
        if part.is_empty() {
            return Ok(Vec::new());
        }
        let window = self.pages.memory().window().clone();
        Ok(vec![Piece { window, offset: part.start(), len: part.len(), pages: Some(part) }])
    }

    fn size(&self) -> u64 {
        self.pages.len()
    }

    fn identity(&self) -> u64 {
        self.identity
    }
}
