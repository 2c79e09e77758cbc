//! A guest's vsock packets, one after the other, beside what the host's ends do meanwhile: no panic, and all bounds hold.
//!
//! The input is cut into steps of 16 bytes; a step is a packet with so many zeroes of data, or something that a host's end does.
#![no_main]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;

use libfuzzer_sys::fuzz_target;
use vm_memory::VolatileSlice;
use vmm::vsock::{Header, Host, MAX_CONNECTIONS, Mux, Ports};

const GUEST: u64 = 3;
/// Bytes kept for slow host sides, of all connections together.
const MOST_KEPT: usize = 32 << 20;

/// The host's ends.
#[derive(Clone, Default)]
struct Ends(Rc<RefCell<Vec<UnixStream>>>);

// SAFETY: there is one thread.
unsafe impl Send for Ends {}

impl Ends {
    fn pair(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("non-blocking");
        self.0.borrow_mut().push(ours);
        theirs
    }
}

impl Host for Ends {
    fn connect(&mut self, ports: Ports) -> Option<OwnedFd> {
        (ports.host != 7).then(|| self.pair().into())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let ends = Ends::default();
    let mut mux = Mux::new(GUEST, Box::new(ends.clone())).expect("a mux");
    let mut data = vec![0; 16 << 10];
    let mut asked = Vec::new();
    // Host ports of connections that the host asks for are far from small numbers.
    let port = |byte: u8| if byte & 0x80 == 0 { u32::from(byte % 8) } else { (1 << 30) + u32::from(byte % 8) };
    for step in bytes.chunks_exact(16) {
        let [kind, op, from, to, l0, l1, flags, odd, b0, b1, b2, b3, c0, c1, c2, c3] =
            <[u8; 16]>::try_from(step).expect("16 bytes");
        let len = usize::from(u16::from_le_bytes([l0, l1])) % (data.len() + 1);
        match kind % 8 {
            0 => {
                let (answer, wait) = sync_channel(1);
                asked.push(wait);
                let _ = mux.connect(port(to), ends.pair(), answer);
            }
            1 | 2 => {
                let mut ends = ends.0.borrow_mut();
                if !ends.is_empty() {
                    let at = usize::from(from) % ends.len();
                    match kind % 8 {
                        _ if flags & 1 == 1 => drop(ends.swap_remove(at)),
                        1 => drop(ends[at].write(&data[..len])),
                        _ => drop(ends[at].read(&mut data[..len])),
                    }
                }
            }
            3 => mux.reset(),
            _ => {
                let header = Header {
                    src_cid: if odd & 1 == 1 { 9 } else { GUEST }.into(),
                    dst_cid: if odd & 2 == 2 { 9 } else { 2 }.into(),
                    src_port: port(from & 0x7f).into(),
                    dst_port: port(to).into(),
                    // It may say more than there is.
                    len: (len as u32).wrapping_add(if odd & 4 == 4 { u32::from_le_bytes([c0, c1, c2, c3]) } else { 0 }).into(),
                    kind: if odd & 8 == 8 { 2 } else { 1 }.into(),
                    op: u16::from(op % 10).into(),
                    flags: u32::from(flags).into(),
                    buf_alloc: u32::from_le_bytes([b0, b1, b2, b3]).into(),
                    fwd_cnt: u32::from_le_bytes([c0, c1, c2, c3]).into(),
                };
                let (one, two) = data.split_at_mut(len / 2);
                let pieces = [VolatileSlice::from(one), VolatileSlice::from(&mut two[..len - len / 2])];
                mux.transmit(&header, &pieces);
            }
        }
        mux.turn().expect("epoll");
        let mut room = [0; 700];
        for _ in 0..8 {
            let (one, two) = room.split_at_mut(300);
            match mux.receive(&[VolatileSlice::from(one), VolatileSlice::from(two)]) {
                Some(header) => assert!(header.dst_cid.get() == GUEST && header.len.get() <= 700, "{header:?}"),
                None => break,
            }
        }
        assert!(mux.len() <= MAX_CONNECTIONS && mux.kept() <= MOST_KEPT, "{} connections, {} bytes", mux.len(), mux.kept());
    }
});
