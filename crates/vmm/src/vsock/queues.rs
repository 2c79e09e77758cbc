//! Packets between the guest's virtqueues and a [`Mux`]. The guest writes descriptors and data while we read them: each header is copied once and
//! then believed, data is only ever touched as volatile memory, lengths are those of the descriptors.

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};
use zerocopy::{FromBytes, IntoBytes};

use super::mux::Mux;
use super::packet::{HEADER, Header};

/// Packets moved before other work gets its turn.
const BATCH: usize = 64;
/// Pieces of one packet; Linux's have at most 18.
const MAX_PIECES: usize = 64;

/// How a queue was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Whether buffers went back to the guest.
    pub any: bool,
    /// Whether there may be more to move at once.
    pub more: bool,
}

/// Takes packets of the guest's from `queue`.
///
/// # Errors
/// The ring makes no sense: the guest's driver is broken, and the queue is not to be touched before it starts anew.
pub fn transmit(queue: &mut Queue, memory: &GuestMemoryMmap, mux: &mut Mux) -> Result<Moved, virtio_queue::Error> {
    for n in 0..BATCH {
        let Some(chain) = queue.iter(memory)?.next() else {
            return Ok(Moved { any: n > 0, more: false });
        };
        let head = chain.head_index();
        if let Some((header, payload)) = parse(chain, memory) {
            mux.transmit(&header, &payload);
        }
        queue.add_used(memory, head, 0)?;
    }
    Ok(Moved { any: true, more: true })
}

/// Fills the guest's buffers in `queue` with packets.
///
/// # Errors
/// As of [`transmit`].
pub fn receive(queue: &mut Queue, memory: &GuestMemoryMmap, mux: &mut Mux) -> Result<Moved, virtio_queue::Error> {
    let mut any = false;
    for _ in 0..BATCH {
        if !mux.has_packet() {
            return Ok(Moved { any, more: false });
        }
        let Some(chain) = queue.iter(memory)?.next() else {
            return Ok(Moved { any, more: false });
        };
        let head = chain.head_index();
        let pieces = pieces(chain, memory, Permissions::Write);
        let len = match pieces.as_deref().and_then(|pieces| split(pieces, HEADER)) {
            // A buffer too small for any packet: back to the guest, as it came.
            None => 0,
            Some((place, room)) => match mux.receive(&room) {
                None => {
                    queue.go_to_previous_position();
                    return Ok(Moved { any, more: false });
                }
                Some(header) => {
                    let mut bytes = header.as_bytes();
                    for slice in place {
                        let (now, rest) = bytes.split_at(slice.len().min(bytes.len()));
                        slice.copy_from(now);
                        bytes = rest;
                    }
                    HEADER as u32 + header.len.get()
                }
            },
        };
        queue.add_used(memory, head, len)?;
        any = true;
    }
    Ok(Moved { any, more: true })
}

/// A packet of the guest's; None if its descriptors hold none.
fn parse<'a>(
    chain: DescriptorChain<&'a GuestMemoryMmap>,
    memory: &'a GuestMemoryMmap,
) -> Option<(Header, Vec<VolatileSlice<'a>>)> {
    let pieces = pieces(chain, memory, Permissions::Read)?;
    let (head, rest) = split(&pieces, HEADER)?;
    let mut bytes = [0; HEADER];
    let mut at = 0;
    for slice in head {
        at += slice.copy_to(bytes.get_mut(at..)?);
    }
    let header = Header::read_from_bytes(&bytes).ok()?;
    let len = header.len.get() as usize;
    // All there is if that is less: the multiplexer compares.
    let payload = split(&rest, len).map_or(rest, |(payload, _)| payload);
    Some((header, payload))
}

/// The memory that a chain's readable or writable descriptors name; None if it is not the guest's or in too many pieces.
fn pieces<'a>(
    chain: DescriptorChain<&'a GuestMemoryMmap>,
    memory: &'a GuestMemoryMmap,
    access: Permissions,
) -> Option<Vec<VolatileSlice<'a>>> {
    let mut pieces = Vec::with_capacity(2);
    for descriptor in chain {
        if descriptor.is_write_only() != (access == Permissions::Write) || descriptor.len() == 0 {
            continue;
        }
        for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize, access).ok()? {
            if pieces.len() == MAX_PIECES {
                return None;
            }
            pieces.push(slice.ok()?);
        }
    }
    Some(pieces)
}

/// The first `at` bytes, and the rest; None if there are fewer.
fn split<'a>(pieces: &[VolatileSlice<'a>], at: usize) -> Option<(Vec<VolatileSlice<'a>>, Vec<VolatileSlice<'a>>)> {
    let (mut head, mut rest) = (Vec::with_capacity(1), Vec::with_capacity(pieces.len()));
    let mut left = at;
    for slice in pieces {
        let (front, back) = slice.split_at(slice.len().min(left)).ok()?;
        left -= front.len();
        if !front.is_empty() {
            head.push(front);
        }
        if !back.is_empty() {
            rest.push(back);
        }
    }
    (left == 0).then_some((head, rest))
}
